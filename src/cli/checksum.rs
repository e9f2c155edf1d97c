//! Detects changes of a model's files.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A checksum over a file, or over all files in a folder and their names.
pub(super) fn checksum(path: &Path) -> anyhow::Result<String> {
    let mut files = Vec::new();
    list(path, &mut files).with_context(|| format!("cannot read `{}`", path.display()))?;
    files.sort();
    let mut sum = 0;
    let mut buffer = vec![0; 1 << 20];
    for file in files {
        let within = file.strip_prefix(path).unwrap_or(&file);
        sum = crc32c::crc32c_append(sum, within.as_os_str().as_encoded_bytes());
        let unreadable = || format!("cannot read `{}`", file.display());
        let mut open = std::fs::File::open(&file).with_context(unreadable)?;
        loop {
            let read = open.read(&mut buffer).with_context(unreadable)?;
            if read == 0 {
                break;
            }
            sum = crc32c::crc32c_append(sum, &buffer[..read]);
        }
    }
    Ok(format!("{sum:08x}"))
}

/// The checksums over several of them: those of an adapter and of its base.
pub(super) fn checksums(paths: &[PathBuf]) -> anyhow::Result<String> {
    let all: Vec<String> = paths.iter().map(|path| checksum(path)).collect::<Result<_, _>>()?;
    Ok(all.join(" "))
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        list(&entry?.path(), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_of_several_folders_counts() {
        let folder = tempfile::tempdir().unwrap();
        let [adapter, base] = ["adapter", "base"].map(|name| folder.path().join(name));
        let of = |text: &str| {
            std::fs::write(&base, text).unwrap();
            checksums(&[adapter.clone(), base.clone()]).unwrap()
        };
        std::fs::write(&adapter, "a").unwrap();
        assert_ne!(of("b"), of("c"));
        assert_eq!(checksums(std::slice::from_ref(&adapter)).unwrap(), checksum(&adapter).unwrap());
    }
}
