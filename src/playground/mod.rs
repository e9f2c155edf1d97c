//! The page for people: plain HTML, CSS and ES modules, which speak to the public API alone.

/// A file of the page.
#[derive(Debug)]
pub struct File {
    /// Where it is served.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// What is in it.
    pub content: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! file {
    ($path:literal, $name:literal, $content_type:expr) => {
        File { path: $path, content_type: $content_type, content: include_str!($name) }
    };
}

/// All files of the page.
pub const FILES: &[File] = &[
    file!("/", "page.html", HTML),
    file!("/playground/style.css", "style.css", CSS),
    file!("/playground/icon.svg", "icon.svg", SVG),
    file!("/playground/main.js", "main.js", JAVASCRIPT),
    file!("/playground/api.js", "api.js", JAVASCRIPT),
    file!("/playground/copies.js", "copies.js", JAVASCRIPT),
    file!("/playground/dom.js", "dom.js", JAVASCRIPT),
    file!("/playground/episode.js", "episode.js", JAVASCRIPT),
    file!("/playground/records.js", "records.js", JAVASCRIPT),
    file!("/playground/settings.js", "settings.js", JAVASCRIPT),
    file!("/playground/turn.js", "turn.js", JAVASCRIPT),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn the_page_is_small() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        for file in FILES {
            encoder.write_all(file.content.as_bytes()).unwrap();
        }
        let bytes = encoder.finish().unwrap().len();
        assert!(bytes <= 60_000, "{bytes} bytes compressed");
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/playground");
        let here = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(here.filter(|path| path.extension().unwrap() != "rs").count(), FILES.len());
    }
}
