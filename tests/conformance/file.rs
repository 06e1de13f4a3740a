//! Scenario files.

use serde_json::Value;

/// A scenario file.
pub(crate) struct File {
    pub(crate) name: String,
    source: String,
    pattern: String,
    rules: Vec<String>,
    pub(crate) scenarios: Vec<Value>,
}

impl File {
    /// Returns whether `project`, such as `grpc/grpc-go`, is one of the sources.
    pub(crate) fn is_from(&self, project: &str) -> bool {
        self.source
            .split([' ', ';', ',', '(', ')'])
            .any(|word| word.split('@').next() == Some(project))
    }

    /// Returns the pattern that the scenarios test.
    pub(crate) fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Returns whether the source or one of its rules contains `text`.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.source.contains(text) || self.rules.iter().any(|rule| rule.contains(text))
    }

    /// Parses a file. The error describes the problem.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let text = |key: &str| match value[key].as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("no `{key}`")),
        };
        if text("schema")? != "scenario/1" {
            return Err(format!("unknown schema {}", value["schema"]));
        }
        let rules = value["semantics"]["rules"].as_array();
        Ok(Self {
            name: name.to_owned(),
            source: text("source")?,
            pattern: text("pattern")?,
            rules: rules
                .into_iter()
                .flatten()
                .filter_map(|rule| Some(rule.as_str()?.to_owned()))
                .collect(),
            scenarios: match value["scenarios"].as_array() {
                Some(scenarios) if !scenarios.is_empty() => scenarios.clone(),
                _ => return Err("no `scenarios`".to_owned()),
            },
        })
    }
}
