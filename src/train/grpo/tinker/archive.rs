//! The archive of a checkpoint: a tar file with an adapter in PEFT's form, with gzip or without.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use flate2::read::GzDecoder;

/// The files of an adapter.
const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
/// How a gzip file begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// The maximum size of one of its files, bytes.
const MAX_FILE: u64 = 16 << 30;

/// Extracts the adapter in `archive` into `folder`, wherever it is in the archive.
///
/// # Errors
/// When the archive is damaged, or has no adapter.
pub fn unpack(mut archive: File, folder: &Path) -> io::Result<()> {
    archive.rewind()?;
    let mut first = [0; 2];
    archive.read_exact(&mut first)?;
    archive.rewind()?;
    let file = BufReader::new(archive);
    let reader: Box<dyn Read> = match first {
        GZIP => Box::new(GzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut missing = FILES.to_vec();
    for entry in tar::Archive::new(reader).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(at) = missing.iter().position(|name| path.file_name() == Some(name.as_ref()))
        else {
            continue;
        };
        if entry.size() > MAX_FILE {
            return Err(io::Error::other(format!("`{}` is too large", path.display())));
        }
        let mut file = File::create(folder.join(missing.swap_remove(at)))?;
        io::copy(&mut entry, &mut file)?;
    }
    match missing.first() {
        None => Ok(()),
        Some(name) => Err(io::Error::other(format!("it holds no `{name}`"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn tar(names: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(name.len() as u64);
            builder.append_data(&mut header, name, name.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        unpack(file, folder.path()).map_err(|error| error.to_string())?;
        Ok(std::fs::read_to_string(folder.path().join(FILES[1])).unwrap())
    }

    #[test]
    fn with_gzip_and_without_and_cut_off() {
        let plain = tar(&["x/adapter_config.json", "x/adapter_model.safetensors", "MARKER"]);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        for bytes in [&plain, &gzip] {
            assert!(unpacked(bytes).unwrap().ends_with("adapter_model.safetensors"));
        }
        unpacked(&gzip[..gzip.len() / 2]).unwrap_err();
        unpacked(&[]).unwrap_err();
        let error = unpacked(&tar(&["adapter_config.json"])).unwrap_err();
        assert_eq!(error, "it holds no `adapter_model.safetensors`");
    }
}
