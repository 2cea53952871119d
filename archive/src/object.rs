//! Objects on their way to and from the archive: gzipped JSON Lines in scratch files.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use flate2::{Compression, GzBuilder, bufread::GzDecoder, write::GzEncoder};
use parquet::file::reader::{ChunkReader, Length};
use sha2::{Digest as _, Sha256};

use crate::error::{ArchiveError, Damage};

/// Objects up to this size stay in memory, in bytes: most are far smaller.
const IN_MEMORY_BYTES: usize = 256 * 1024;
/// gzip's "unknown operating system": the same bytes wherever they are written.
const OS_UNKNOWN: u8 = 255;
/// No line of an archive is longer, in bytes: the longest are those of scopes with many members.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Where scratch files are made.
#[derive(Clone, Debug, Default)]
pub struct Scratch(Option<PathBuf>);

/// The SHA-256 of bytes, in hexadecimal.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Sha256Hex(pub String);

impl Sha256Hex {
    pub(crate) fn of(hasher: Sha256) -> Self {
        Self(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::of(Sha256::new_with_prefix(bytes))
    }
}

impl std::fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole object, in scratch.
#[derive(Debug)]
pub struct Object {
    file: Spool,
    /// Of the bytes as stored.
    pub sha256: Sha256Hex,
    /// Of what they unpack to: the same whatever packed them.
    pub content_sha256: Sha256Hex,
    pub size_bytes: u64,
}

impl Scratch {
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self(directory)
    }

    pub(crate) fn spool(&self) -> Spool {
        Spool { directory: self.0.clone(), memory: Vec::new(), file: None, place: 0 }
    }
}

/// Bytes in memory, and on disk once they are many.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: Option<PathBuf>,
    memory: Vec<u8>,
    file: Option<File>,
    place: usize,
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() && self.memory.len() + bytes.len() > IN_MEMORY_BYTES {
            let mut file = match &self.directory {
                Some(directory) => tempfile::tempfile_in(directory)?,
                None => tempfile::tempfile()?,
            };
            file.write_all(&self.memory)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => self.memory.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), File::flush)
    }
}

impl Read for Spool {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(file) = &mut self.file {
            return file.read(buffer);
        }
        let rest = self.memory.get(self.place..).unwrap_or_default();
        let read = (&*rest).read(buffer)?;
        self.place += read;
        Ok(read)
    }
}

impl Spool {
    pub(crate) fn rewind(&mut self) -> io::Result<()> {
        self.place = 0;
        self.file.as_mut().map_or(Ok(()), |file| file.seek(SeekFrom::Start(0)).map(|_| ()))
    }
}

/// Writes through to a spool, and sums up what it wrote.
pub(crate) struct Summing {
    spool: Spool,
    sum: Sha256,
    size_bytes: u64,
}

impl Summing {
    pub(crate) fn new(scratch: &Scratch) -> Self {
        Self { spool: scratch.spool(), sum: Sha256::new(), size_bytes: 0 }
    }

    pub(crate) fn into_object(
        self,
        content_sha256: Option<Sha256Hex>,
    ) -> Result<Object, ArchiveError> {
        let Self { mut spool, sum, size_bytes } = self;
        spool.rewind()?;
        let sha256 = Sha256Hex::of(sum);
        let content_sha256 = content_sha256.unwrap_or_else(|| sha256.clone());
        Ok(Object { file: spool, sha256, content_sha256, size_bytes })
    }
}

impl Write for Summing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.spool.write(bytes)?;
        self.sum.update(&bytes[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.spool.flush()
    }
}

/// Writes gzipped JSON Lines.
pub struct LinesWriter {
    gzip: GzEncoder<Summing>,
    content: Sha256,
    pub lines: u64,
}

impl LinesWriter {
    pub fn new(scratch: &Scratch) -> Self {
        let gzip = GzBuilder::new().mtime(0).operating_system(OS_UNKNOWN);
        let gzip = gzip.write(Summing::new(scratch), Compression::default());
        Self { gzip, content: Sha256::new(), lines: 0 }
    }

    /// `line` has no line feed.
    pub fn push(&mut self, line: &[u8]) -> Result<(), ArchiveError> {
        for bytes in [line, b"\n"] {
            self.content.update(bytes);
            self.gzip.write_all(bytes)?;
        }
        self.lines += 1;
        Ok(())
    }

    pub fn finish(self) -> Result<Object, ArchiveError> {
        let content = Sha256Hex::of(self.content);
        self.gzip.finish()?.into_object(Some(content))
    }
}

impl Object {
    /// Takes bytes as they are: a schema, say.
    pub fn of_bytes(scratch: &Scratch, bytes: &[u8]) -> Result<Self, ArchiveError> {
        let mut summing = Summing::new(scratch);
        summing.write_all(bytes)?;
        summing.into_object(None)
    }

    /// Reads the next bytes; empty at the end.
    pub(crate) fn read_chunk(&mut self, bytes_max: usize) -> Result<Vec<u8>, ArchiveError> {
        let mut chunk = Vec::new();
        (&mut self.file).take(bytes_max as u64).read_to_end(&mut chunk)?;
        Ok(chunk)
    }

    pub(crate) fn rewind(&mut self) -> Result<(), ArchiveError> {
        Ok(self.file.rewind()?)
    }

    /// All of it, in memory.
    pub fn bytes(&mut self) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::with_capacity(self.size_bytes as usize);
        self.file.rewind()?;
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Of the lines that it unpacks to, read to the last one; none is kept in memory.
    pub(crate) fn unpacked_sha256(&mut self, path: &str) -> Result<Sha256Hex, ArchiveError> {
        let file = std::mem::replace(&mut self.file, Scratch::default().spool());
        let mut lines = Lines::of(file, path.to_owned())?;
        while lines.next_line()?.is_some() {}
        let sum = lines.content_sha256();
        self.file = lines.into_spool();
        Ok(sum)
    }

    /// The bytes, to be read here and there.
    pub(crate) fn contents(self) -> Contents {
        let Spool { memory, file, .. } = self.file;
        match file {
            None => Contents::Memory(memory.into()),
            Some(file) => Contents::File { file: Arc::new(file), size_bytes: self.size_bytes },
        }
    }

    /// As [`Self::contents`], of one that is used again.
    pub(crate) fn contents_again(&self) -> Result<Contents, ArchiveError> {
        Ok(match &self.file.file {
            None => Contents::Memory(self.file.memory.clone().into()),
            Some(file) => {
                Contents::File { file: Arc::new(file.try_clone()?), size_bytes: self.size_bytes }
            }
        })
    }

    /// Its bytes, from the first.
    pub(crate) fn into_reader(mut self) -> Result<BufReader<Spool>, ArchiveError> {
        self.file.rewind()?;
        Ok(BufReader::new(self.file))
    }

    /// Unpacks it, line by line. `path` is for errors.
    pub fn lines(self, path: &str) -> Result<Lines, ArchiveError> {
        Lines::of(self.file, path.to_owned())
    }
}

/// An object's bytes, read at any place, by several readers at once.
#[derive(Clone, Debug)]
pub(crate) enum Contents {
    Memory(Bytes),
    File { file: Arc<File>, size_bytes: u64 },
}

/// Reads a file from a place on; no other reader of it is disturbed.
pub(crate) struct ReadAt {
    file: Arc<File>,
    place: u64,
}

impl Read for ReadAt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.place)?;
        self.place += read as u64;
        Ok(read)
    }
}

impl Length for Contents {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size_bytes, .. } => *size_bytes,
        }
    }
}

impl ChunkReader for Contents {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(match self {
            Self::Memory(bytes) => Box::new(bytes.get_read(start)?),
            Self::File { file, .. } => {
                Box::new(BufReader::new(ReadAt { file: file.clone(), place: start }))
            }
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        match self {
            Self::Memory(bytes) => bytes.get_bytes(start, length),
            Self::File { file, .. } => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, start)?;
                Ok(bytes.into())
            }
        }
    }
}

/// Reads gzipped JSON Lines.
pub struct Lines {
    gzip: BufReader<GzDecoder<BufReader<Spool>>>,
    path: String,
    line: u64,
    content: Sha256,
}

impl Lines {
    fn of(mut file: Spool, path: String) -> Result<Self, ArchiveError> {
        file.rewind()?;
        let gzip = BufReader::new(GzDecoder::new(BufReader::new(file)));
        Ok(Self { gzip, path, line: 0, content: Sha256::new() })
    }

    fn into_spool(self) -> Spool {
        self.gzip.into_inner().into_inner().into_inner()
    }

    /// The next line, without its line feed; `None` at the end.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, ArchiveError> {
        let mut line = Vec::new();
        let read = (&mut self.gzip).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|error| self.damaged(Damage::Gzip(error.to_string())))?;
        if line.is_empty() {
            return self.end().map(|()| None);
        }
        self.content.update(&line);
        self.line += 1;
        if line.pop() != Some(b'\n') {
            return Err(self.problem("does not end with a line feed"));
        }
        Ok(Some(line))
    }

    /// The next line, parsed.
    pub fn next_json<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, ArchiveError> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|error| self.problem(&format!("is not as the format has it: {error}")))
    }

    /// An error about the line read last.
    pub fn problem(&self, problem: &str) -> ArchiveError {
        self.damaged(Damage::Line { line: self.line, problem: problem.to_owned() })
    }

    /// Of all that was read.
    pub fn content_sha256(&self) -> Sha256Hex {
        Sha256Hex::of(self.content.clone())
    }

    /// Reads it once more, from the first line.
    pub fn restart(mut self) -> Result<Self, ArchiveError> {
        let path = std::mem::take(&mut self.path);
        Self::of(self.into_spool(), path)
    }

    fn damaged(&self, damage: Damage) -> ArchiveError {
        ArchiveError::damaged(&self.path, damage)
    }

    /// One member, and nothing after it.
    fn end(&mut self) -> Result<(), ArchiveError> {
        let rest = self.gzip.get_mut().get_mut().fill_buf()?;
        if rest.is_empty() {
            Ok(())
        } else {
            Err(self.damaged(Damage::Gzip("bytes follow its end".to_owned())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: &[&str]) -> Object {
        let mut writer = LinesWriter::new(&Scratch::default());
        lines.iter().for_each(|line| writer.push(line.as_bytes()).unwrap());
        writer.finish().unwrap()
    }

    fn read(object: Object) -> Result<Vec<String>, ArchiveError> {
        let mut lines = object.lines("x")?;
        let mut read = Vec::new();
        while let Some(line) = lines.next_line()? {
            read.push(String::from_utf8(line).unwrap());
        }
        Ok(read)
    }

    #[test]
    fn lines_come_back() {
        let many: Vec<String> = (0..50_000).map(|n| format!("{{\"line\":{n}}}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for lines in [&[][..], &["{}"], &["{}", "", "é"], &many] {
            assert_eq!(read(written(lines)).unwrap(), lines);
        }
    }

    #[test]
    fn the_same_lines_are_the_same_bytes_and_the_header_says_nothing() {
        let bytes = written(&["{}"]).bytes().unwrap();
        assert_eq!(bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        assert_eq!(written(&["{}"]).bytes().unwrap(), bytes);
        assert_eq!(written(&["{}"]).sha256, Sha256Hex::of_bytes(&bytes));
        assert_eq!(written(&["{}"]).content_sha256, Sha256Hex::of_bytes(b"{}\n"));
    }

    #[test]
    fn damage_is_found_wherever_it_is() {
        let whole = written(&["{\"a\":1}", "{\"b\":2}"]).bytes().unwrap();
        for place in 10..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            let object = Object::of_bytes(&Scratch::default(), &flipped).unwrap();
            assert!(read(object).is_err(), "flipped at {place}");
            let cut = Object::of_bytes(&Scratch::default(), &whole[..place]).unwrap();
            assert!(read(cut).is_err(), "cut at {place}");
        }
        let more = Object::of_bytes(&Scratch::default(), &[&whole[..], b"x"].concat()).unwrap();
        assert!(read(more).is_err());
    }
}
