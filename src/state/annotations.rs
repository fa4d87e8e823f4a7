//! The annotations that are kept: all of them in memory, since they are few.
//!
//! What is stored is what is here: both drop the oldest made beyond the same number.

use super::sync::RwLock;
use model::{Annotation, Range};
use std::collections::VecDeque;
use std::sync::Arc;

/// In the order in which they were made.
pub(super) struct Annotations {
    max: usize,
    kept: RwLock<VecDeque<Arc<Annotation>>>,
}

impl Annotations {
    pub(super) fn new(max: usize, stored: Vec<Annotation>) -> Self {
        Self { max, kept: RwLock::new(stored.into_iter().map(Arc::new).collect()) }
    }

    /// Keeps it, unless it is there already: then it gives none.
    pub(super) fn add(&self, annotation: Annotation) -> Option<Arc<Annotation>> {
        let mut kept = self.kept.write();
        if kept.iter().rev().any(|known| **known == annotation) {
            return None;
        }
        let annotation = Arc::new(annotation);
        kept.push_back(annotation.clone());
        if kept.len() > self.max {
            kept.pop_front();
        }
        Some(annotation)
    }

    /// Those in the range, in the order of time.
    pub(super) fn within(&self, range: Range) -> Vec<Arc<Annotation>> {
        let kept = self.kept.read();
        let within = kept.iter().filter(|annotation| range.contains(annotation.time));
        let mut within: Vec<_> = within.cloned().collect();
        within.sort_by_key(|annotation| annotation.time);
        within
    }
}
