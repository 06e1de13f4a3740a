//! Observers, and how a call carries one to its layers.

use std::sync::Arc;

use super::{Event, Panics};

/// Receives the events of policies.
///
/// Every `Fn(&Event)` implements it, and so do `Arc<O>` and tuples of observers. It is called while a call is polled,
/// so it should be fast. It is called outside locks, so it may use any handle.
///
/// # Sharing
///
/// Give clones of one `Arc` to a builder and to a [`Pipeline`](crate::Pipeline), and the observer receives
/// each event once, alone or as a part of tuples. Clones of a closure are different observers.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
/// use backstop::{Bulkhead, Event, ManualClock, Pipeline, Policy};
///
/// let clock = ManualClock::new();
/// let rejections = Arc::new(AtomicU32::new(0));
/// let count = rejections.clone();
/// let observer = Arc::new(move |event: &Event| {
///     count.fetch_add(u32::from(event.kind() == "rejected"), Relaxed);
/// });
///
/// let bulkhead = Bulkhead::builder()
///     .max_concurrent(1)
///     .observer(observer.clone())
///     .clock(clock.clone())
///     .build()?;
/// let pipeline = Pipeline::new(bulkhead.clone()).observer(observer);
///
/// let _permit = bulkhead.try_acquire()?;
/// let result = clock.block_on(pipeline.call(|| async { Ok::<_, ()>(()) }));
/// assert!(result.is_err());
/// assert_eq!(rejections.load(Relaxed), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Observer: Send + Sync {
    /// Called once for each event.
    fn on_event(&self, event: &Event);

    /// Returns whether the `Arc` with this address is this observer or a part of it.
    #[doc(hidden)]
    fn includes(&self, address: *const ()) -> bool {
        let _ = address;
        false
    }

    /// Passes the event on, except to the parts that `heard` includes.
    #[doc(hidden)]
    fn on_event_after(&self, heard: &dyn Observer, event: &Event) {
        let _ = heard;
        self.on_event(event);
    }

    /// Returns the name of the pipeline that this observer belongs to, if it does.
    #[doc(hidden)]
    fn pipeline(&self) -> Option<&'static str> {
        None
    }
}

impl<F: Fn(&Event) + Send + Sync> Observer for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn on_event(&self, event: &Event) {
        (**self).on_event(event);
    }

    fn includes(&self, address: *const ()) -> bool {
        Self::as_ptr(self).cast() == address || (**self).includes(address)
    }

    fn on_event_after(&self, heard: &dyn Observer, event: &Event) {
        if !heard.includes(Self::as_ptr(self).cast()) {
            (**self).on_event_after(heard, event);
        }
    }
}

/// Implements [`Observer`] for tuples: each part receives each event, even if an earlier part panics.
macro_rules! tuples {
    ($($($part:ident)+;)+) => {$(
        #[allow(non_snake_case)]
        impl<$($part: Observer),+> Observer for ($($part,)+) {
            fn on_event(&self, event: &Event) {
                let ($($part,)+) = self;
                let mut panics = Panics::default();
                $(panics.run(|| $part.on_event(event));)+
                panics.resume();
            }

            fn includes(&self, address: *const ()) -> bool {
                let ($($part,)+) = self;
                false $(|| $part.includes(address))+
            }

            fn on_event_after(&self, heard: &dyn Observer, event: &Event) {
                let ($($part,)+) = self;
                let mut panics = Panics::default();
                $(panics.run(|| $part.on_event_after(heard, event));)+
                panics.resume();
            }
        }
    )+};
}

tuples! {
    A;
    A B;
    A B C;
    A B C D;
    A B C D E;
    A B C D E F;
}

/// The observer of one call: `()` for none, or a reference to an [`Observer`].
///
/// The absence of an observer is a type, so layers keep nothing for it. See
/// [`Operation::listener`](crate::Operation::listener).
pub trait Listener: Copy {
    /// Returns the observer, if there is one.
    fn observer<'a>(self) -> Option<&'a dyn Observer>
    where
        Self: 'a;
}

impl Listener for () {
    #[inline(always)]
    fn observer<'a>(self) -> Option<&'a dyn Observer> {
        None
    }
}

impl Listener for &dyn Observer {
    #[inline(always)]
    fn observer<'a>(self) -> Option<&'a dyn Observer>
    where
        Self: 'a,
    {
        Some(self)
    }
}
