//! Annotations: what people and programs note about a moment, such as a deployment.

use crate::time::Timestamp;
use std::sync::Arc;

/// The longest text, in bytes.
pub const MAX_ANNOTATION_BYTES: usize = 1024;

/// How many are kept: the latest made.
pub const MAX_ANNOTATIONS: usize = 10_000;

/// A note about a component at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// The component; `global` for all.
    pub component: Arc<str>,
    /// When.
    pub time: Timestamp,
    /// What.
    pub text: Arc<str>,
}
