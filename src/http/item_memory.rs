//! Items of recent responses, for clients that refer to them by id. Held in memory, within a bound,
//! and lost at exit.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// Bytes of all items, as JSON; the oldest are removed.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// Items by their ids, which cannot be guessed.
#[derive(Default)]
pub(super) struct ItemMemory(Mutex<Items>);

#[derive(Default)]
struct Items {
    by_id: HashMap<String, (Value, usize)>,
    /// Ids, oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

impl ItemMemory {
    /// Stores items that have ids.
    pub(super) fn keep(&self, items: &[Value]) {
        if items.is_empty() {
            return;
        }
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for item in items {
            let Some(id) = item.get("id").and_then(Value::as_str) else { continue };
            memory.keep(id.to_owned(), item.clone());
        }
    }

    /// The item of this id, if it is still stored.
    pub(super) fn get(&self, id: &str) -> Option<Value> {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.by_id.get(id).map(|(item, _)| item.clone())
    }
}

impl Items {
    fn keep(&mut self, id: String, item: Value) {
        let size = item.to_string().len();
        if size > MOST_BYTES || self.by_id.contains_key(&id) {
            return;
        }
        self.bytes += size;
        self.order.push_back(id.clone());
        self.by_id.insert(id, (item, size));
        while self.bytes > MOST_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some((_, size)) = self.by_id.remove(&oldest) {
                self.bytes -= size;
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
        let item = |id: &str| json!({"id": id, "text": "x".repeat(MOST_BYTES / 3)});
        for id in ["a", "b", "c", "d"] {
            memory.keep(&[item(id), json!({"text": "no id"})]);
        }
        let known: Vec<_> = ["a", "b", "c", "d"].map(|id| memory.get(id).is_some()).into();
        assert_eq!(known, [false, false, true, true]);
        assert_eq!(memory.get("d"), Some(item("d")));
        memory.keep(&[json!({"id": "e", "text": "x".repeat(MOST_BYTES)})]);
        assert_eq!((memory.get("e"), memory.get("d").is_some()), (None, true));
    }
}
