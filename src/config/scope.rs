//! The position of a reader in the settings, and the mistakes it has found.

use std::collections::BTreeMap;
use std::mem;

use super::error::{Problem, SettingsError};
use super::value::{Value, step};
use crate::clock::ClockHandle;
use crate::retry_budget::RetryBudget;

/// The current path, the mistakes so far, and the clock of handles to build.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    path: String,
    problems: Vec<Problem>,
    /// Indices of the problems by path, in order.
    by_path: BTreeMap<String, Vec<usize>>,
    /// The clock of handles inside settings, such as budgets; `None` for the default of their builders.
    pub(super) clock: Option<ClockHandle>,
    /// Budgets built so far, by their settings. Equal settings share one budget, so that a reload keeps it.
    pub(super) budgets: Vec<(Value, RetryBudget)>,
}

impl Scope {
    pub(super) fn on(clock: Option<ClockHandle>) -> Self {
        Self {
            clock,
            ..Self::default()
        }
    }

    /// Runs `act` at a key of the current table.
    pub(super) fn at<R>(&mut self, key: &str, act: impl FnOnce(&mut Self) -> R) -> R {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.step(&format!("{dot}{}", step(key)), act)
    }

    /// Runs `act` at an element of the current list.
    pub(super) fn at_index<R>(&mut self, index: usize, act: impl FnOnce(&mut Self) -> R) -> R {
        self.step(&format!("[{index}]"), act)
    }

    fn step<R>(&mut self, step: &str, act: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        self.path.push_str(step);
        let result = act(self);
        self.path.truncate(length);
        result
    }

    /// Records that the value at the current path violates a rule.
    pub(super) fn report(&mut self, rule: impl Into<String>, value: Option<&Value>) {
        // A value that could not be read is not reported as missing too.
        if value.is_none() && self.is_reported() {
            return;
        }
        let problem = Problem {
            path: self.path.clone(),
            value: value.map(Value::to_string),
            rule: rule.into(),
        };
        let known = self.by_path.get(&self.path);
        let mut known = known.into_iter().flatten();
        if !known.any(|&index| self.problems[index] == problem) {
            self.add(problem);
        }
    }

    fn add(&mut self, problem: Problem) {
        let indices = self.by_path.entry(problem.path.clone()).or_default();
        indices.push(self.problems.len());
        self.problems.push(problem);
    }

    /// Returns whether a mistake was reported at the current path, or further in.
    fn is_reported(&self) -> bool {
        // Paths are ordered by bytes, so those that continue this one with the same letter are neighbors.
        let is_inside = |step: &str| {
            let first = format!("{}{step}", self.path);
            let next = self.by_path.range(first.clone()..).next();
            next.is_some_and(|(path, _)| path.starts_with(&first))
        };
        self.by_path.contains_key(&self.path) || is_inside(".") || is_inside("[")
    }

    pub(super) fn len(&self) -> usize {
        self.problems.len()
    }

    /// Runs `act`, and discards its reports of missing values.
    pub(super) fn ignoring_missing<R>(&mut self, act: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.problems.len();
        let result = act(self);
        self.by_path.clear();
        for (index, problem) in mem::take(&mut self.problems).into_iter().enumerate() {
            if index < before || problem.value.is_some() {
                self.add(problem);
            }
        }
        result
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Returns `value`, or all mistakes if there are any.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, SettingsError> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(SettingsError {
                problems: self.problems,
            }),
        }
    }
}
