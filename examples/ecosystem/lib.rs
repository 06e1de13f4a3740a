//! Recipes for backstop with other crates: see the examples of this package.
