//! The spill file: who the client is, and what it has not been told to be durable.
//!
//! What [`Spill::append`] took is read by the next life of the client, also after a power cut. A record is
//! its length and its CRC-32 (each u32, little-endian), then protobuf: first an [`Identity`], then each
//! request as the IngestRequest that a new stream would be sent. A record that is not whole ends the file.

use crate::proto::v1;
use prost::Message;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The first bytes of a file.
const MAGIC: &[u8] = b"healthd spill 1\n";
/// Length and checksum.
const HEAD: usize = 8;
/// Up to so many bytes, requests that are durable by now are left in the file; beyond it, half of them.
const MAX_DEAD: u64 = 1 << 20;

/// Who the client is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Identity {
    /// Its name at the server.
    #[prost(string, tag = "1")]
    pub(crate) client: String,
    /// Which life it is in, from 1.
    #[prost(uint64, tag = "2")]
    pub(crate) epoch: u64,
    /// The life of the server's data in which the session is; empty before the first welcome.
    #[prost(string, tag = "3")]
    pub(crate) incarnation: String,
    /// Requests up to this one were durable when the file was written.
    #[prost(uint64, tag = "4")]
    pub(crate) durable: u64,
}

/// What an earlier life left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// None if there was none.
    pub(crate) identity: Option<Identity>,
    pub(crate) requests: Vec<v1::IngestRequest>,
}

#[derive(Debug)]
pub(crate) struct Spill {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// How many requests are in it.
    requests: usize,
    /// Keeps others away.
    _lock: File,
}

impl Spill {
    /// Opens the file, or makes it. What is in it is lost with the first [`Spill::rewrite`].
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Left)> {
        let lock = OpenOptions::new().create(true).append(true).open(beside(path, "lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another process uses it")
            }
        })?;
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let mut found = Vec::new();
        file.read_to_end(&mut found)?;
        let left = read(&found)?;
        let (bytes, requests) = (found.len() as u64, left.requests.len());
        let spill = Self { path: path.to_owned(), file, bytes, requests, _lock: lock };
        Ok((spill, left))
    }

    /// Adds requests; comes back when they are on the disk.
    pub(crate) fn append(
        &mut self,
        requests: impl Iterator<Item = v1::IngestRequest>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for request in requests {
            write(&request, &mut bytes);
            self.requests += 1;
        }
        self.file.write_all(&bytes)?;
        self.bytes += bytes.len() as u64;
        self.file.sync_data()
    }

    /// Puts a new file in the place of the old one, at once.
    pub(crate) fn rewrite(
        &mut self,
        identity: &Identity,
        requests: impl Iterator<Item = v1::IngestRequest>,
    ) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        write(identity, &mut bytes);
        let mut count = 0;
        for request in requests {
            write(&request, &mut bytes);
            count += 1;
        }
        let new = beside(&self.path, "new");
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        // The new name outlives a power cut when its directory is on the disk.
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        (self.file, self.bytes, self.requests) = (file, bytes.len() as u64, count);
        Ok(())
    }

    /// Whether most of the file is of no use any more, when so many requests are.
    pub(crate) fn is_stale(&self, live: usize) -> bool {
        self.bytes > MAX_DEAD && self.requests > 2 * live
    }
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn write(record: &impl Message, bytes: &mut Vec<u8>) {
    let record = record.encode_to_vec();
    bytes.extend((record.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(&record).to_le_bytes());
    bytes.extend(record);
}

fn read(bytes: &[u8]) -> io::Result<Left> {
    let foreign = || io::Error::new(io::ErrorKind::InvalidData, "it is no spill file of healthd's");
    if bytes.is_empty() {
        return Ok(Left::default());
    }
    let mut records = records(bytes.strip_prefix(MAGIC).ok_or_else(foreign)?);
    let identity = records.next().ok_or_else(foreign)?;
    let identity = Identity::decode(identity).map_err(|_| foreign())?;
    let requests = records.map_while(|record| v1::IngestRequest::decode(record).ok());
    Ok(Left { identity: Some(identity), requests: requests.collect() })
}

fn records(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let [length, crc] = [&head[..4], &head[4..]]
            .map(|part| u32::from_le_bytes(part.try_into().unwrap_or_default()));
        let (record, rest) = rest.split_at_checked(length as usize)?;
        bytes = rest;
        (crc32fast::hash(record) == crc).then_some(record)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sequence: u64) -> v1::IngestRequest {
        v1::IngestRequest { sequence, ..Default::default() }
    }

    fn identity(epoch: u64) -> Identity {
        Identity { client: "me".to_owned(), epoch, ..Default::default() }
    }

    fn sequences(left: &Left) -> Vec<u64> {
        left.requests.iter().map(|request| request.sequence).collect()
    }

    #[test]
    fn what_was_appended_is_there_after_any_torn_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spill");
        {
            let (mut spill, left) = Spill::open(&path).unwrap();
            assert!(left.identity.is_none() && left.requests.is_empty());
            spill.rewrite(&identity(1), std::iter::empty()).unwrap();
            spill.append([request(1), request(2)].into_iter()).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        let first = whole.len() - HEAD - request(2).encoded_len();
        for length in first..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (_, left) = Spill::open(&path).unwrap();
            assert_eq!(left.identity, Some(identity(1)));
            let expected: &[u64] = if length == whole.len() { &[1, 2] } else { &[1] };
            assert_eq!(sequences(&left), expected, "of {length} bytes");
        }
        let mut torn = whole;
        *torn.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(sequences(&Spill::open(&path).unwrap().1), [1]);
    }

    #[test]
    fn a_rewritten_file_takes_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spill");
        {
            let (mut spill, _) = Spill::open(&path).unwrap();
            spill.rewrite(&identity(1), [request(4)].into_iter()).unwrap();
            spill.rewrite(&identity(2), [request(5)].into_iter()).unwrap();
            spill.append([request(6)].into_iter()).unwrap();
        }
        let (_, left) = Spill::open(&path).unwrap();
        assert_eq!((sequences(&left), left.identity), (vec![5, 6], Some(identity(2))));
    }

    #[test]
    fn a_file_of_somebody_else_is_left_alone_and_two_processes_do_not_share_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spill");
        std::fs::write(&path, "a diary").unwrap();
        let error = Spill::open(&path).unwrap_err();
        assert_eq!(error.to_string(), "it is no spill file of healthd's");
        assert_eq!(std::fs::read(&path).unwrap(), b"a diary");
        std::fs::remove_file(&path).unwrap();
        let (_spill, _) = Spill::open(&path).unwrap();
        assert_eq!(Spill::open(&path).unwrap_err().to_string(), "another process uses it");
    }
}
