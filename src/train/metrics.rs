//! Metrics of a run by step: JSON Lines for scripts, TensorBoard event files for viewing.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::atomic_file;
use crate::run_files;

/// Named values of one step, in the order they were added.
pub type Values = Vec<(&'static str, f64)>;

/// Writes each step's values to `metrics.jsonl` and to an event file next to it.
#[derive(Debug)]
pub struct MetricsLog {
    lines: File,
    events: File,
}

impl MetricsLog {
    /// Opens the log in `folder` for a run that continues after `step` steps: later entries of an
    /// earlier attempt are removed, so that no step occurs twice.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn open(folder: &Path, step: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(run_files::METRICS);
        let mut kept = String::new();
        if let Ok(file) = File::open(&path) {
            for line in BufReader::new(file).lines() {
                let line = line?;
                // A line that was truncated by a kill does not parse, and is removed too.
                let at = serde_json::from_str::<Value>(&line)
                    .ok()
                    .and_then(|value| value.get("step")?.as_u64());
                if at.is_some_and(|at| at <= step) {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
        }
        atomic_file::write(&path, kept)?;
        let lines = OpenOptions::new().append(true).open(&path)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("events.out.tfevents.{:010}.prompt-r1.{step}", now.as_secs());
        let mut events = File::create(folder.join(name))?;
        let mut header = Vec::new();
        put_double(&mut header, 1, now.as_secs_f64());
        put_bytes(&mut header, 3, b"brain.Event:2");
        events.write_all(&record(&header))?;
        Ok(Self { lines, events })
    }

    /// Writes the values of `step`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&mut self, step: u64, values: &Values) -> std::io::Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), step.into());
        for (name, value) in values {
            line.insert((*name).into(), (*value).into());
        }
        writeln!(self.lines, "{}", Value::Object(line))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.events.write_all(&record(&event(now.as_secs_f64(), step, values)))?;
        self.events.flush()
    }
}

// An event file is a sequence of length-prefixed, checksummed protocol buffers (TensorFlow's
// `Event` message). Only four field kinds occur, so they are written by hand.

fn event(time: f64, step: u64, values: &Values) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, value) in values {
        let mut scalar = Vec::new();
        put_bytes(&mut scalar, 1, name.as_bytes());
        put_tag(&mut scalar, 2, 5);
        scalar.extend((*value as f32).to_le_bytes());
        put_bytes(&mut summary, 1, &scalar);
    }
    let mut event = Vec::new();
    put_double(&mut event, 1, time);
    put_tag(&mut event, 2, 0);
    put_varint(&mut event, step);
    put_bytes(&mut event, 5, &summary);
    event
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8)
}

fn put_tag(out: &mut Vec<u8>, field: u64, kind: u64) {
    put_varint(out, field << 3 | kind);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_double(out: &mut Vec<u8>, field: u64, value: f64) {
    put_tag(out, field, 1);
    out.extend(value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_tag(out, field, 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_resumed_log_holds_each_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(folder.path(), 0).unwrap();
        for step in 1..=3 {
            log.write(step, &vec![("loss", step as f64)]).unwrap();
        }
        drop(log);
        let path = folder.path().join("metrics.jsonl");
        let cut = std::fs::read_to_string(&path).unwrap() + "{\"step\": 4, \"lo";
        std::fs::write(&path, cut).unwrap();
        MetricsLog::open(folder.path(), 2).unwrap().write(3, &vec![("loss", 9.0)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"step\":1,\"loss\":1.0}\n{\"step\":2,\"loss\":2.0}\n{\"step\":3,\"loss\":9.0}\n"
        );
    }

    #[test]
    fn event_records_have_the_published_form() {
        // Checksum of nothing and of "123456789" as published for CRC-32C, then masked.
        assert_eq!(masked_crc(b""), 0xA282_EAD8);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
        let data = event(1.5, 300, &vec![("loss", 0.25)]);
        let mut expected = vec![0x09];
        expected.extend(1.5f64.to_le_bytes());
        expected.extend([0x10, 0xAC, 0x02, 0x2A, 13, 0x0A, 11, 0x0A, 4]);
        expected.extend(b"loss");
        expected.push(0x15);
        expected.extend(0.25f32.to_le_bytes());
        assert_eq!(data, expected);
        let framed = record(&data);
        assert_eq!(framed[..8], (data.len() as u64).to_le_bytes());
        assert_eq!(framed.len(), data.len() + 16);
    }
}
