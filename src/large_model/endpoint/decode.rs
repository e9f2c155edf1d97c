//! Decodes bodies that are compressed although that was not requested.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};

/// Decodes a body piece by piece.
pub(super) enum BodyDecoder {
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
}

impl BodyDecoder {
    /// For the encoding of that name, in lower case; `None` for one that is not known.
    pub(super) fn new(encoding: &str) -> Option<Self> {
        match encoding {
            "gzip" | "x-gzip" => Some(Self::Gzip(MultiGzDecoder::new(Vec::new()))),
            "deflate" => Some(Self::Deflate(ZlibDecoder::new(Vec::new()))),
            _ => None,
        }
    }

    /// Decodes a piece. Stops soon after more than `max_bytes` bytes.
    ///
    /// # Errors
    /// When the body is not what its encoding says.
    pub(super) fn push(&mut self, encoded: &[u8], max_bytes: usize) -> io::Result<Bytes> {
        /// A byte decodes to a thousand bytes at most.
        const STEP: usize = 1024;
        for step in encoded.chunks(STEP) {
            let decoded = match self {
                Self::Gzip(decoder) => {
                    decoder.write_all(step)?;
                    decoder.flush()?;
                    decoder.get_ref()
                }
                Self::Deflate(decoder) => {
                    decoder.write_all(step)?;
                    decoder.flush()?;
                    decoder.get_ref()
                }
            };
            if decoded.len() > max_bytes {
                break;
            }
        }
        Ok(std::mem::take(match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => decoder.get_mut(),
        })
        .into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn pieces_of_any_size_are_decoded() {
        let text = b"data: a\n\n".repeat(100);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&text).unwrap();
        for (name, encoded) in [("gzip", gzip(&text)), ("deflate", zlib.finish().unwrap())] {
            for size in [1, 7, 10_000] {
                let mut decoder = BodyDecoder::new(name).unwrap();
                let pieces = encoded.chunks(size);
                let decoded: Vec<_> =
                    pieces.map(|piece| decoder.push(piece, 10_000).unwrap()).collect();
                assert_eq!(decoded.concat(), text, "{name} in pieces of {size}");
            }
        }
        assert!(BodyDecoder::new("br").is_none());
        assert!(BodyDecoder::new("gzip").unwrap().push(b"no gzip at all", 100).is_err());
    }

    #[test]
    fn a_body_that_swells_is_left() {
        let bomb = gzip(&vec![b' '; 100_000_000]);
        let decoded = BodyDecoder::new("gzip").unwrap().push(&bomb, 10_000).unwrap();
        assert!((10_000..4_000_000).contains(&decoded.len()), "{}", decoded.len());
    }
}
