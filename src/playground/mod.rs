//! The web pages: plain HTML, CSS and ES modules, which use the public API alone.

/// A file of a page.
#[derive(Debug)]
pub struct File {
    /// Where it is served.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// What is in it.
    pub content: &'static str,
}

/// Where the style sheet of the pages is served.
pub const STYLE: &str = "/playground/style.css";
/// How a page refers to it.
pub const STYLE_LINK: &str = r#"<link rel="stylesheet" href="playground/style.css">"#;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! file {
    ($path:expr, $name:literal, $content_type:expr) => {
        File { path: $path, content_type: $content_type, content: include_str!($name) }
    };
}

/// All files of the page of `server serve`.
pub const FILES: &[File] = &[
    file!("/", "page.html", HTML),
    file!(STYLE, "style.css", CSS),
    file!("/playground/icon.svg", "icon.svg", SVG),
    file!("/playground/main.js", "main.js", JAVASCRIPT),
    file!("/playground/api.js", "api.js", JAVASCRIPT),
    file!("/playground/copies.js", "copies.js", JAVASCRIPT),
    file!("/playground/dom.js", "dom.js", JAVASCRIPT),
    file!("/playground/episode.js", "episode.js", JAVASCRIPT),
    file!("/playground/images.js", "images.js", JAVASCRIPT),
    file!("/playground/records.js", "records.js", JAVASCRIPT),
    file!("/playground/settings.js", "settings.js", JAVASCRIPT),
    file!("/playground/turn.js", "turn.js", JAVASCRIPT),
];

/// All files of the page of `server runs`.
pub const RUNS: &[File] = &[
    file!("/", "runs.html", HTML),
    file!(STYLE, "style.css", CSS),
    file!("/playground/icon.svg", "icon.svg", SVG),
    file!("/playground/runs.js", "runs.js", JAVASCRIPT),
    file!("/playground/api.js", "api.js", JAVASCRIPT),
    file!("/playground/chart.js", "chart.js", JAVASCRIPT),
    file!("/playground/dom.js", "dom.js", JAVASCRIPT),
    file!("/playground/records.js", "records.js", JAVASCRIPT),
    file!("/playground/samples.js", "samples.js", JAVASCRIPT),
    file!("/playground/turn.js", "turn.js", JAVASCRIPT),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// Checked one by one, because each file is requested by itself.
    #[test]
    fn the_pages_are_small() {
        let compressed = |file: &File| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(file.content.as_bytes()).unwrap();
            encoder.finish().unwrap().len()
        };
        let bytes: usize = FILES.iter().chain(RUNS).map(compressed).sum();
        assert!(bytes <= 60_000, "{bytes} bytes compressed");
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/playground");
        let here = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let is_served =
            |content: &str| FILES.iter().chain(RUNS).any(|file| file.content == content);
        for path in here.filter(|path| path.extension().unwrap() != "rs") {
            let content = std::fs::read_to_string(&path).unwrap();
            assert!(is_served(&content), "{}", path.display());
        }
    }
}
