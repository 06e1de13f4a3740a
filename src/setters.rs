//! The setters that most builders share. Each builder documents its own.

/// Defines setters in the `impl` of a builder. The builder has a field for each, or with `in field` a field of type
/// [`Setup`](crate::base::Setup) that contains them. The field `seed` always belongs to the builder.
macro_rules! setters {
    (in $setup:ident; $($(#[$text:meta])* $setting:ident;)+) => {
        $(setters! { @$setting [.$setup] $(#[$text])* })+
    };
    ($($(#[$text:meta])* $setting:ident;)+) => {
        $(setters! { @$setting [] $(#[$text])* })+
    };
    (@name [$(.$setup:ident)?] $(#[$text:meta])*) => {
        $(#[$text])*
        pub const fn name(mut self, name: &'static str) -> Self {
            self$(.$setup)?.name = name;
            self
        }
    };
    (@clock [$(.$setup:ident)?] $(#[$text:meta])*) => {
        $(#[$text])*
        pub fn clock(mut self, clock: impl Into<$crate::clock::ClockHandle>) -> Self {
            self$(.$setup)?.clock = Some(clock.into());
            self
        }
    };
    (@observer [$(.$setup:ident)?] $(#[$text:meta])*) => {
        $(#[$text])*
        pub fn observer(mut self, observer: impl $crate::event::Observer + 'static) -> Self {
            self$(.$setup)?.observer = Some($crate::clock::blocking::shielded(observer));
            self
        }
    };
    (@seed [$(.$setup:ident)?] $(#[$text:meta])*) => {
        $(#[$text])*
        pub const fn seed(mut self, seed: u64) -> Self {
            self.seed = Some(seed);
            self
        }
    };
    (@shadow [$(.$setup:ident)?] $(#[$text:meta])*) => {
        $(#[$text])*
        pub const fn shadow(mut self, shadow: bool) -> Self {
            self$(.$setup)?.shadow = shadow;
            self
        }
    };
}
