//! The clients of a file: their settings, checked, and their stacks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::SettingsError;
use super::scope::Scope;
use super::section::{Checked, entries};
use super::setting::Setting;
use super::standard::StandardSettings;
use super::value::Value;
use crate::clock::ClockHandle;
use crate::retry_budget::RetryBudget;
use crate::standard::{Config, Standard, WeakStandard};

/// The settings in a file: those of the clients, and their defaults.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct FileSettings {
    /// Settings that every client inherits, key by key.
    pub defaults: Option<StandardSettings>,
    /// Settings of clients by name.
    pub clients: BTreeMap<String, StandardSettings>,
}

impl FileSettings {
    pub(super) fn write(&self) -> Value {
        let clients = self.clients.iter();
        let clients = clients.map(|(name, settings)| (name.clone(), settings.write()));
        let mut all = vec![("clients".to_owned(), Value::Table(clients.collect()))];
        if let Some(defaults) = &self.defaults {
            all.insert(0, ("defaults".to_owned(), defaults.write()));
        }
        Value::Table(all)
    }
}

impl serde::Serialize for FileSettings {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.write().serialize(serializer)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for FileSettings {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FileSettings".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let settings = StandardSettings::schema(generator);
        schemars::json_schema!({
            "type": "object",
            "description": "The settings of clients, and defaults of all of them.",
            "properties": {
                "defaults": settings,
                "clients": { "type": "object", "additionalProperties": settings },
            },
            "required": ["clients"],
            "additionalProperties": false,
        })
    }
}

/// All clients of one version of the settings.
#[derive(Default)]
pub(super) struct Clients {
    pub(super) all: BTreeMap<String, Client>,
    /// Clients of earlier versions. One that comes back while a handle of it exists is the same client.
    gone: BTreeMap<String, Gone>,
}

#[derive(Clone)]
struct Gone {
    standard: WeakStandard,
    budgets: Vec<(Value, RetryBudget)>,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) standard: Standard,
    pub(super) config: Config,
    pub(super) settings: StandardSettings,
    /// The budgets that were built from the settings, each with its own settings.
    budgets: Vec<(Value, RetryBudget)>,
}

impl Clients {
    /// Checks a file and returns its clients. Clients that exist keep their stacks, which are not reconfigured yet.
    /// `make` builds the others.
    ///
    /// # Errors
    ///
    /// All mistakes in the file.
    pub(super) fn next(
        &self,
        file: &Value,
        clock: &ClockHandle,
        make: impl Fn(&str, Config) -> Result<Standard, crate::ConfigError>,
    ) -> Result<Self, SettingsError> {
        let mut at = Scope::on(Some(clock.clone()));
        entries(file, &["defaults", "clients"], &[], &mut at);
        let defaults = file.get("defaults");
        let defaults = defaults.map(|defaults| read_defaults(defaults, &mut at));
        let defaults = defaults.unwrap_or(Value::table());
        let mut next = Self::default();
        at.at("clients", |at| match file.get("clients") {
            // A file without clients may be half written, so it is not read as an empty list.
            None => at.report("must be given", None),
            Some(Value::Table(clients)) => {
                for (name, own) in clients {
                    let client = at.at(name, |at| self.client(name, own, &defaults, &make, at));
                    if let Some(client) = client {
                        next.all.insert(name.clone(), client);
                    }
                }
            }
            Some(other) => at.report("must be a table", Some(other)),
        });
        next.gone = self.gone_in(&next);
        at.finish(Some(next))
    }

    /// Returns the clients of this and earlier versions that `next` lacks.
    fn gone_in(&self, next: &Self) -> BTreeMap<String, Gone> {
        let now = self.all.iter().map(|(name, client)| {
            let gone = Gone {
                standard: client.standard.downgrade(),
                budgets: client.budgets.clone(),
            };
            (name.clone(), gone)
        });
        let before = self.gone.iter();
        let before = before.map(|(name, gone)| (name.clone(), gone.clone()));
        before
            .chain(now)
            .filter(|(name, gone)| !next.all.contains_key(name) && gone.standard.exists())
            .collect()
    }

    /// Returns the stack of a client that exists, and the budgets that were built for it.
    fn existing(&self, name: &str) -> Option<(Standard, Vec<(Value, RetryBudget)>)> {
        if let Some(client) = self.all.get(name) {
            return Some((client.standard.clone(), client.budgets.clone()));
        }
        let gone = self.gone.get(name)?;
        Some((gone.standard.upgrade()?, gone.budgets.clone()))
    }

    fn client(
        &self,
        name: &str,
        own: &Value,
        defaults: &Value,
        make: impl Fn(&str, Config) -> Result<Standard, crate::ConfigError>,
        at: &mut Scope,
    ) -> Option<Client> {
        let before = at.len();
        if name.is_empty() {
            at.report("must have a name", Some(own));
        }
        if let Some(value) = own.get("name") {
            let rule = "must not be given: the key of the table is the name";
            at.at("name", |at| at.report(rule, Some(value)));
        }
        let settings = StandardSettings::read(&own.clone().over(defaults), at)?;
        let (standard, budgets) = self.existing(name).unzip();
        at.budgets = budgets.unwrap_or_default();
        let config = settings.config_in(at);
        let budgets = std::mem::take(&mut at.budgets);
        let config = config.filter(|_| at.len() == before)?;
        let standard = match standard {
            Some(standard) => Ok(standard),
            None => make(name, config.clone()),
        };
        match standard {
            Ok(standard) => Some(Client {
                standard,
                config,
                settings,
                budgets,
            }),
            Err(error) => {
                at.at(error.setting(), |at| at.report(error.rule(), None));
                None
            }
        }
    }
}

/// Checks the defaults, and returns those that are valid.
fn read_defaults(defaults: &Value, at: &mut Scope) -> Value {
    at.at("defaults", |at| {
        let before = at.len();
        let read = StandardSettings::read(defaults, at);
        let mut valid = read.unwrap_or_default();
        if let Some(name) = valid.name.take() {
            let rule = "must not be given: the name of a client is its key";
            at.at("name", |at| at.report(rule, Some(&Value::Text(name))));
        }
        // Each client may give the settings that the defaults lack, so a missing timeout contradicts nothing here.
        let missing = [valid.total_timeout, valid.attempt_timeout].map(|timeout| timeout.is_none());
        valid.total_timeout.get_or_insert(Duration::MAX);
        valid.attempt_timeout.get_or_insert(Duration::MAX);
        at.ignoring_missing(|at| valid.settle(at));
        valid.total_timeout = valid.total_timeout.filter(|_| !missing[0]);
        valid.attempt_timeout = valid.attempt_timeout.filter(|_| !missing[1]);
        match at.len() == before {
            true => defaults.clone(),
            // Their mistakes are reported once, and not again for every client.
            false => valid.write(),
        }
    })
}
