//! Settings that are one of several kinds. The key `kind` selects it.

/// Defines an enum of tables of settings. The first kind is the default one.
macro_rules! kinds {
    (
        $(#[doc = $about:expr])*
        $name:ident {
            $(#[doc = $first_doc:expr])* $first_kind:literal $first:ident($first_type:ty),
            $($(#[doc = $doc:expr])* $kind:literal $variant:ident($type:ty),)*
        }
    ) => {
        $(#[doc = $about])*
        ///
        /// The key `kind` selects the variant; each variant has its own keys.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum $name {
            $(#[doc = $first_doc])* $first($first_type),
            $($(#[doc = $doc])* $variant($type),)*
        }

        impl $name {
            fn kind(&self) -> &'static str {
                match self {
                    Self::$first(_) => $first_kind,
                    $(Self::$variant(_) => $kind,)*
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::$first(<$first_type>::default())
            }
        }

        impl $crate::config::setting::Setting for $name {
            fn read(
                value: &$crate::config::Value,
                at: &mut $crate::config::scope::Scope,
            ) -> Option<Self> {
                let (kind, rest) = $crate::config::kinds::split(value, $first_kind, at)?;
                match kind.as_str() {
                    $first_kind => <$first_type>::read(&rest, at).map(Self::$first),
                    $($kind => <$type>::read(&rest, at).map(Self::$variant),)*
                    _ => {
                        let rule = $crate::config::setting::one_of(&[$first_kind, $($kind),*]);
                        at.at("kind", |at| at.report(rule, value.get("kind")));
                        None
                    }
                }
            }

            fn write(&self) -> $crate::config::Value {
                let settings = match self {
                    Self::$first(settings) => settings.write(),
                    $(Self::$variant(settings) => settings.write(),)*
                };
                $crate::config::kinds::join(self.kind(), settings)
            }

            fn effective(self) -> Self {
                match self {
                    Self::$first(settings) => Self::$first(settings.effective()),
                    $(Self::$variant(settings) => Self::$variant(settings.effective()),)*
                }
            }

            #[cfg(feature = "schema")]
            fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                generator.subschema_for::<Self>()
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let kinds = [
                    ($first_kind, <$first_type as schemars::JsonSchema>::json_schema(generator)),
                    $(($kind, <$type as schemars::JsonSchema>::json_schema(generator)),)*
                ];
                $crate::config::schema::kinds(concat!($($about),*), kinds)
            }
        }

        $crate::config::section::by_setting! { $name }
    };
}
pub(super) use kinds;

use super::scope::Scope;
use super::value::Value;

/// Returns the kind of a table, and the table without the key `kind`.
pub(super) fn split(value: &Value, default: &str, at: &mut Scope) -> Option<(String, Value)> {
    let Value::Table(entries) = value else {
        at.report("must be a table", Some(value));
        return None;
    };
    let kind = match value.get("kind") {
        None => default.to_owned(),
        Some(Value::Text(kind)) => kind.clone(),
        Some(other) => {
            at.at("kind", |at| at.report("must be a string", Some(other)));
            return None;
        }
    };
    let rest = entries.iter().filter(|(key, _)| key != "kind");
    Some((kind, Value::Table(rest.cloned().collect())))
}

/// Adds a kind to a table.
pub(super) fn join(kind: &str, settings: Value) -> Value {
    let mut entries = vec![("kind".to_owned(), Value::Text(kind.into()))];
    if let Value::Table(rest) = settings {
        entries.extend(rest);
    }
    Value::Table(entries)
}
