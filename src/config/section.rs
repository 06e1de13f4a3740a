//! Tables of settings: their keys, and the builders they configure.

use super::error::SettingsError;
use super::scope::Scope;
use super::setting::{Setting, nearest};
use super::value::Value;
use crate::error::ConfigError;

/// A table of settings.
pub(crate) trait Section: Setting + Default {
    /// The keys of the table.
    const KEYS: &'static [&'static str];
    /// Other names of keys, such as those of other libraries, each with the key it stands for.
    const ALIASES: &'static [(&'static str, &'static str)] = &[];

    /// Removes a setting. Returns whether it was given.
    fn clear(&mut self, key: &str) -> bool;
}

/// Settings that a builder can check.
pub(crate) trait Checked: Section {
    /// Builds with these settings, on a clock that needs no runtime, and discards the result.
    fn try_build(&self, at: &mut Scope) -> Result<(), ConfigError>;

    /// Returns the key of nested settings, given the name of a policy in the builder's errors.
    fn key_of(_policy: &str) -> Option<&'static str> {
        None
    }

    /// Reports everything that the builder rejects, and removes it.
    fn settle(&mut self, at: &mut Scope) {
        // A builder reports one mistake at a time: without that setting, it finds the next one.
        loop {
            let before = at.len();
            let Err(error) = self.try_build(at) else {
                return;
            };
            if at.len() > before && !Self::KEYS.contains(&error.setting()) {
                return;
            }
            if !note(self, &error, Self::key_of(error.policy()), at) {
                return;
            }
        }
    }
}

/// Reports an error of a builder, and removes its setting. Returns whether it was given.
pub(super) fn note<S: Section>(
    section: &mut S,
    error: &ConfigError,
    of: Option<&'static str>,
    at: &mut Scope,
) -> bool {
    let written = section.write();
    let setting = error.setting();
    let rule = error.rule();
    match of {
        Some(key) => {
            let value = written.get(key).and_then(|inner| inner.get(setting));
            at.at(key, |at| at.at(setting, |at| at.report(rule, value)));
            section.clear(key)
        }
        None => {
            at.at(setting, |at| at.report(rule, written.get(setting)));
            section.clear(setting)
        }
    }
}

/// Reports the unknown keys of a table. Returns `None` if the value is not a table.
pub(super) fn entries<'a>(
    value: &'a Value,
    keys: &[&str],
    aliases: &[(&str, &'static str)],
    at: &mut Scope,
) -> Option<&'a [(String, Value)]> {
    let Value::Table(entries) = value else {
        at.report("must be a table", Some(value));
        return None;
    };
    for (key, value) in entries {
        if keys.contains(&key.as_str()) {
            continue;
        }
        let alias = aliases.iter().find(|(other, _)| other == key);
        let rule = match alias.map(|(_, name)| *name).or_else(|| nearest(key, keys)) {
            Some(name) => format!("unknown key (did you mean `{name}`?)"),
            None => format!("unknown key (known are {})", keys.join(", ")),
        };
        at.at(key, |at| at.report(rule, Some(value)));
    }
    Some(entries)
}

/// Reports a layer that is switched off outside a stack. Used for the key `enabled`.
pub(super) fn allow_only_in_stacks<B>(builder: B, enabled: bool, at: &mut Scope) -> B {
    if !enabled {
        at.report("must be true outside a stack", Some(&Value::Bool(false)));
    }
    builder
}

/// Reads a complete value as settings.
pub(super) fn read_all<S: Setting>(value: &Value) -> Result<S, SettingsError> {
    let mut scope = Scope::default();
    let settings = S::read(value, &mut scope);
    scope.finish(settings)
}

/// Implements serde's traits by means of `Setting`.
macro_rules! by_setting {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::config::setting::Setting::write(self).serialize(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = $crate::config::Value::deserialize(deserializer)?;
                $crate::config::section::read_all(&value).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(super) use by_setting;

/// Defines a table of settings.
///
/// `for Builder` names the builder it configures. A key calls the setter of the same name, or the function after
/// `=>`. The value after `=` is the builder's default, for the effective settings.
macro_rules! section {
    (
        $(#[doc = $about:expr])*
        $name:ident $(, aliases $aliases:tt)? $(, over($over:expr))?
        $(, for $generics:tt $builder:ty)? => $keys:tt
    ) => {
        section! { @table [$(#[doc = $about])*] $name [$($aliases)?] [$($over)?] $keys }
        $(section! { @builder $name $generics $builder, $keys })?
    };
    (
        @table [$(#[doc = $about:expr])*] $name:ident [$([$($alias:tt)*])?] [$($over:expr)?]
        { $($(#[doc = $doc:expr])* $key:ident: $type:ty $(= $default:expr)? $(=> $apply:expr)?,)* }
    ) => {
        $(#[doc = $about])*
        ///
        /// A key that is not given has its default. Deserializing rejects unknown keys.
        #[derive(Clone, Debug, Default, PartialEq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[doc = $doc])* pub $key: Option<$type>,)*
        }

        impl $crate::config::section::Section for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];
            $(const ALIASES: &'static [(&'static str, &'static str)] = &[$($alias)*];)?

            fn clear(&mut self, key: &str) -> bool {
                match key {
                    $(stringify!($key) => self.$key.take().is_some(),)*
                    _ => false,
                }
            }
        }

        impl $crate::config::setting::Setting for $name {
            fn read(
                value: &$crate::config::Value,
                at: &mut $crate::config::scope::Scope,
            ) -> Option<Self> {
                use $crate::config::section::Section;
                let entries =
                    $crate::config::section::entries(value, Self::KEYS, Self::ALIASES, at)?;
                let mut read = Self::default();
                for (key, value) in entries {
                    match key.as_str() {
                        $(stringify!($key) => {
                            let read_one = |at: &mut _| <$type>::read(value, at);
                            read.$key = at.at(key, read_one);
                        })*
                        _ => {}
                    }
                }
                Some(read)
            }

            fn write(&self) -> $crate::config::Value {
                #[allow(unused_mut, reason = "a table may have no keys")]
                let mut entries = Vec::new();
                $(if let Some(value) = &self.$key {
                    entries.push((stringify!($key).to_owned(), value.write()));
                })*
                $crate::config::Value::Table(entries)
            }

            fn effective(self) -> Self {
                Self {
                    $($key: section!(@effective self.$key, $($default)?),)*
                }
            }

            $(fn over(self, default: Self) -> Self {
                let over: fn(Self, Self) -> Self = $over;
                over(self, default)
            })?

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
                let keys = [$((
                    stringify!($key),
                    concat!($($doc),*),
                    <$type as $crate::config::setting::Setting>::schema(generator),
                    section!(@default $type, $($default)?),
                )),*];
                $crate::config::schema::table(concat!($($about),*), keys)
            }
        }

        $crate::config::section::by_setting! { $name }

        impl $name {
            /// Returns the settings with the defaults of all keys that are not given.
            pub fn effective(&self) -> Self {
                $crate::config::setting::Setting::effective(self.clone())
            }
        }

    };
    (
        @builder $name:ident [$($generics:tt)*] $builder:ty,
        { $($(#[doc = $doc:expr])* $key:ident: $type:ty $(= $default:expr)? $(=> $apply:expr)?,)* }
    ) => {
        impl $name {
            /// Calls the setters of a builder with the settings. `build` checks them.
            pub fn apply_to<$($generics)*>(
                &self,
                builder: $builder,
            ) -> Result<$builder, $crate::config::SettingsError> {
                let mut scope = $crate::config::scope::Scope::default();
                let builder = self.apply_in(builder, &mut scope);
                scope.finish(Some(builder))
            }

            pub(crate) fn apply_in<$($generics)*>(
                &self,
                #[allow(unused_mut, reason = "a table may have no keys")] mut builder: $builder,
                #[allow(unused_variables, reason = "a table may have no keys")]
                at: &mut $crate::config::scope::Scope,
            ) -> $builder {
                $(if let Some(value) = self.$key.clone() {
                    section!(@apply builder, $key, value, at, ($builder, $type), $($apply)?);
                })*
                builder
            }
        }
    };
    (@effective $value:expr, ) => {
        $value.map($crate::config::setting::Setting::effective)
    };
    (@effective $value:expr, $default:expr) => {
        Some(match $value {
            Some(value) => $crate::config::setting::Setting::over(value, $default),
            None => $default,
        })
    };
    (@default $type:ty, ) => { None };
    (@default $type:ty, $default:expr) => {{
        let default: $type = $default;
        Some($crate::config::setting::Setting::write(&default))
    }};
    (@apply $builder:ident, $key:ident, $value:ident, $at:ident, $types:tt, ) => {
        $builder = $builder.$key($value);
    };
    (@apply $builder:ident, $key:ident, $value:ident, $at:ident, ($of:ty, $type:ty), $apply:expr) => {
        let apply: fn($of, $type, &mut $crate::config::scope::Scope) -> $of = $apply;
        $builder = $at.at(stringify!($key), |at| apply($builder, $value, at));
    };
}
pub(super) use section;

/// Adds `build` to settings of a builder without type parameters, and checks that find all mistakes.
macro_rules! builds {
    ($($name:ident: $handle:ty, $builder:expr $(, $policy:literal => $key:literal)*;)+) => {$(
        impl $crate::config::section::Checked for $name {
            fn try_build(&self, at: &mut $crate::config::scope::Scope) -> Result<(), ConfigError> {
                let builder = self.apply_in($builder, at);
                builder.clock($crate::ManualClock::new()).build().map(|_| ())
            }

            #[allow(unused_variables, reason = "most builders return errors of their own only")]
            fn key_of(policy: &str) -> Option<&'static str> {
                match policy {
                    $($policy => Some($key),)*
                    _ => None,
                }
            }
        }

        impl $name {
            /// Builds the handle, with the defaults of its builder.
            ///
            /// # Errors
            ///
            /// All mistakes in the settings.
            pub fn build(&self) -> Result<$handle, $crate::config::SettingsError> {
                let mut scope = $crate::config::scope::Scope::default();
                $crate::config::section::Checked::settle(&mut self.clone(), &mut scope);
                scope.finish(Some(()))?;
                let mut scope = $crate::config::scope::Scope::default();
                let builder = self.apply_in($builder, &mut scope);
                match builder.build() {
                    Ok(handle) => scope.finish(Some(handle)),
                    Err(error) => {
                        let key = <Self as $crate::config::section::Checked>::key_of(error.policy());
                        let mut own = self.clone();
                        $crate::config::section::note(&mut own, &error, key, &mut scope);
                        scope.finish(None)
                    }
                }
            }
        }
    )+};
}
pub(super) use builds;
