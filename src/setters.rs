//! The setters that most builders have. What they set is the same everywhere; what it is good for
//! is said where they are listed.

/// Makes setters in the `impl` of a builder that has fields of their names.
macro_rules! setters {
    ($($(#[$text:meta])* $setting:ident;)+) => {
        $(setters! { @$setting $(#[$text])* })+
    };
    (@name $(#[$text:meta])*) => {
        $(#[$text])*
        pub const fn name(mut self, name: &'static str) -> Self {
            self.name = name;
            self
        }
    };
    (@clock $(#[$text:meta])*) => {
        $(#[$text])*
        pub fn clock(mut self, clock: impl Into<$crate::clock::ClockHandle>) -> Self {
            self.clock = Some(clock.into());
            self
        }
    };
    (@observer $(#[$text:meta])*) => {
        $(#[$text])*
        pub fn observer(mut self, observer: impl $crate::event::Observer + 'static) -> Self {
            self.observer = Some($crate::clock::blocking::shielded(observer));
            self
        }
    };
    (@seed $(#[$text:meta])*) => {
        $(#[$text])*
        pub const fn seed(mut self, seed: u64) -> Self {
            self.seed = Some(seed);
            self
        }
    };
    (@shadow $(#[$text:meta])*) => {
        $(#[$text])*
        pub const fn shadow(mut self, shadow: bool) -> Self {
            self.shadow = shadow;
            self
        }
    };
}
