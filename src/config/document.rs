//! The JSON schema of all settings.

use schemars::{Schema, SchemaGenerator};

use super::budget::{
    GrpcBudgetSettings, InFlightBudgetSettings, PercentageBudgetSettings, TokenBudgetSettings,
};
use super::bulkhead::{
    AimdSettings, BulkheadSettings, CorrelatedSettings, Gradient2Settings, GradientSettings,
    VegasSettings, WindowedSettings,
};
use super::calls::{
    FairnessSettings, HedgeSettings, LoadShedderSettings, ThrottleSettings, TimeoutSettings,
};
use super::clients::FileSettings;
use super::limiter::KeyedLimiterSettings;
#[cfg(feature = "chaos")]
use super::sets::ChaosSettings;
#[cfg(feature = "dead-letter-file")]
use super::sets::FileSinkSettings;
use super::sets::{
    CoalesceSettings, CodelMachineSettings, DeadLetterSettings, EndpointsSettings, KeyedSettings,
    StaleSettings,
};
use super::shared::{
    CircuitVotesSettings, SharedBulkheadSettings, SharedKeyedLimiterSettings, SharedLimiterSettings,
};

/// Returns the schema of the file of a [`Registry`](super::Registry), with those of all other settings among
/// its definitions.
///
/// # Examples
///
/// ```
/// let schema = serde_json::to_value(backstop::config::schema()).unwrap();
/// assert!(schema["$defs"]["RetrySettings"]["properties"]["max_attempts"].is_object());
/// ```
pub fn schema() -> Schema {
    let mut generator = SchemaGenerator::default();
    define_all(&mut generator);
    generator.into_root_schema_for::<FileSettings>()
}

/// Defines the schemas of all settings.
fn define_all(generator: &mut SchemaGenerator) {
    macro_rules! define {
        ($($name:ident),* $(,)?) => {
            $(let _ = generator.subschema_for::<$name>();)*
        };
    }
    define!(
        TimeoutSettings,
        HedgeSettings,
        ThrottleSettings,
        LoadShedderSettings,
        FairnessSettings,
        BulkheadSettings,
        AimdSettings,
        VegasSettings,
        GradientSettings,
        Gradient2Settings,
        CorrelatedSettings,
        WindowedSettings,
        PercentageBudgetSettings,
        TokenBudgetSettings,
        GrpcBudgetSettings,
        InFlightBudgetSettings,
        KeyedLimiterSettings,
        KeyedSettings,
        CoalesceSettings,
        StaleSettings,
        EndpointsSettings,
        CodelMachineSettings,
        DeadLetterSettings,
        SharedLimiterSettings,
        SharedKeyedLimiterSettings,
        SharedBulkheadSettings,
        CircuitVotesSettings,
    );
    #[cfg(feature = "dead-letter-file")]
    define!(FileSinkSettings);
    #[cfg(feature = "chaos")]
    define!(ChaosSettings);
}
