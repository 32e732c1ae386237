//! Hash maps that give memory back.

use std::{collections::HashMap, hash::Hash};

/// Shrinks a map that uses less than an eighth of its memory.
pub(crate) fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > 1024 && map.len() < map.capacity() / 8 {
        map.shrink_to_fit();
    }
}
