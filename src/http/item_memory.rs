//! Items of recent responses, for clients that refer to them by id. Held in memory, within a bound,
//! and lost at exit.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::body::BodySize;

/// Bytes of all items, as JSON; the oldest are removed.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Items by their ids, which cannot be guessed.
#[derive(Default)]
pub(super) struct ItemMemory(Mutex<Items>);

/// An item, and what it adds to the size of a body that contains it.
pub(super) struct Item {
    pub(super) value: Value,
    pub(super) size: BodySize,
}

#[derive(Default)]
struct Items {
    by_id: HashMap<String, Arc<Item>>,
    /// Ids, oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

impl ItemMemory {
    /// Stores items that have ids.
    pub(super) fn keep(&self, items: &[Value]) {
        let named = items.iter().filter_map(|item| {
            let id = item.get("id").and_then(Value::as_str)?;
            let size = BodySize::of(item.to_string().as_bytes());
            Some((id.to_owned(), Item { value: item.clone(), size }))
        });
        // Collected before others are kept waiting: they may be long.
        for (id, item) in named.collect::<Vec<_>>() {
            let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            memory.keep(id, item);
        }
    }

    /// The item of this id, if it is still stored.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Item>> {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.by_id.get(id).cloned()
    }
}

impl Items {
    fn keep(&mut self, id: String, item: Item) {
        if item.size.bytes() > MAX_BYTES || self.by_id.contains_key(&id) {
            return;
        }
        self.bytes += item.size.bytes();
        self.order.push_back(id.clone());
        self.by_id.insert(id, Arc::new(item));
        while self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(item) = self.by_id.remove(&oldest) {
                self.bytes -= item.size.bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let memory = ItemMemory::default();
        let item = |id: &str| json!({"id": id, "text": "x".repeat(MAX_BYTES / 3)});
        for id in ["a", "b", "c", "d"] {
            memory.keep(&[item(id), json!({"text": "no id"})]);
        }
        let known: Vec<_> = ["a", "b", "c", "d"].map(|id| memory.get(id).is_some()).into();
        assert_eq!(known, [false, false, true, true]);
        let kept = memory.get("d").map(|item| (item.value.clone(), item.size.bytes()));
        assert_eq!(kept, Some((item("d"), item("d").to_string().len())));
        memory.keep(&[json!({"id": "e", "text": "x".repeat(MAX_BYTES)})]);
        assert_eq!((memory.get("e").is_some(), memory.get("d").is_some()), (false, true));
    }
}
