//! Edit lists of MP4 files (ISO/IEC 14496-12, 8.6.6).
//!
//! AAC starts with a block of priming samples that the edit list tells players to skip. The container decoder does not apply
//! edit lists, so they are read here; without them every timestamp would be late by 20 to 60 ms.

use std::io::{self, Read, Seek, SeekFrom};

/// The presented part of a track, in its own time units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edit {
    /// Time units of the track to skip at the start.
    pub(super) start: u64,
    /// Length in units of the movie; 0 means all.
    pub(super) movie_duration: u64,
    /// Units per second of the movie.
    pub(super) movie_timescale: u32,
    /// Units per second of the track.
    pub(super) timescale: u32,
}

/// Boxes followed at most; a real file has some hundred.
const MAX_BOXES: usize = 20_000;
/// Box contents read at most; the boxes wanted are far smaller.
const MAX_BODY: u64 = 1 << 16;

/// The only or first real edit of track `track_id`, if the file has one that can be read.
///
/// Files with several edits (cut without re-encoding) give `None`: their parts would have to be rearranged.
pub(super) fn edit_of_track(file: &mut (impl Read + Seek), track_id: u32) -> Option<Edit> {
    let end = file.seek(SeekFrom::End(0)).ok()?;
    let mut budget = MAX_BOXES;
    let mut movie_timescale = None;
    let mut found = None;
    let moov = children(file, 0, end, &mut budget).find_kind(b"moov")?;
    for child in children(file, moov.body, moov.end, &mut budget).0 {
        match &child.kind {
            b"mvhd" => movie_timescale = timescale(&body(file, &child).ok()?),
            b"trak" => {
                let track = read_track(file, &child, &mut budget);
                if let Some((id, edit)) = track
                    && id == track_id
                {
                    found = edit;
                }
            }
            _ => {}
        }
    }
    let (start, movie_duration, timescale) = found?;
    Some(Edit {
        start,
        movie_duration,
        movie_timescale: movie_timescale?,
        timescale,
    })
}

/// Start in units of the track, duration in units of the movie, units per second of the track.
type TrackEdit = (u64, u64, u32);

/// Id of a track, and its edit.
fn read_track(
    file: &mut (impl Read + Seek),
    track: &Box4,
    budget: &mut usize,
) -> Option<(u32, Option<TrackEdit>)> {
    let mut id = None;
    let mut scale = None;
    let mut edit = None;
    for child in children(file, track.body, track.end, budget).0 {
        match &child.kind {
            b"tkhd" => {
                let bytes = body(file, &child).ok()?;
                id = u32_at(&bytes, if bytes.first() == Some(&1) { 20 } else { 12 });
            }
            b"edts" => {
                let list = children(file, child.body, child.end, budget).find_kind(b"elst");
                if let Some(list) = list {
                    edit = first_edit(&body(file, &list).ok()?);
                }
            }
            b"mdia" => {
                let header = children(file, child.body, child.end, budget).find_kind(b"mdhd");
                if let Some(header) = header {
                    scale = timescale(&body(file, &header).ok()?);
                }
            }
            _ => {}
        }
    }
    let edit = edit
        .zip(scale)
        .map(|((start, duration), scale)| (start, duration, scale));
    Some((id?, edit))
}

/// Start and duration of the only edit that shows media.
fn first_edit(list: &[u8]) -> Option<(u64, u64)> {
    let long = list.first()? == &1;
    let count = u32_at(list, 4)?;
    let size = if long { 20 } else { 12 };
    let mut edits = list
        .get(8..)?
        .chunks_exact(size)
        .take(count as usize)
        .filter_map(|entry| {
            let (duration, start) = if long {
                (u64_at(entry, 0)?, u64_at(entry, 8)? as i64)
            } else {
                (
                    u64::from(u32_at(entry, 0)?),
                    i64::from(u32_at(entry, 4)? as i32),
                )
            };
            // A negative start is a pause before the track begins.
            Some((u64::try_from(start).ok()?, duration))
        });
    let edit = edits.next()?;
    edits.next().is_none().then_some(edit)
}

/// Units per second from a movie or media header.
fn timescale(header: &[u8]) -> Option<u32> {
    u32_at(header, if header.first() == Some(&1) { 20 } else { 12 }).filter(|scale| *scale > 0)
}

/// A box: its type and where its contents are.
struct Box4 {
    kind: [u8; 4],
    body: u64,
    end: u64,
}

struct Boxes(Vec<Box4>);

impl Boxes {
    fn find_kind(self, kind: &[u8; 4]) -> Option<Box4> {
        self.0.into_iter().find(|child| &child.kind == kind)
    }
}

/// The boxes between two positions; stops quietly at the first damaged one.
fn children(file: &mut (impl Read + Seek), begin: u64, end: u64, budget: &mut usize) -> Boxes {
    let mut boxes = Vec::new();
    let mut position = begin;
    while *budget > 0 {
        *budget -= 1;
        let Ok(child) = header(file, position, end) else {
            break;
        };
        position = child.end;
        boxes.push(child);
    }
    Boxes(boxes)
}

fn header(file: &mut (impl Read + Seek), position: u64, end: u64) -> io::Result<Box4> {
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    if position >= end {
        return Err(damaged());
    }
    file.seek(SeekFrom::Start(position))?;
    let mut bytes = [0; 16];
    file.read_exact(&mut bytes[..8])?;
    let short = u64::from(u32_at(&bytes, 0).unwrap_or(0));
    let (length, header) = match short {
        0 => (end - position, 8),
        1 => {
            file.read_exact(&mut bytes[8..])?;
            (u64_at(&bytes, 8).unwrap_or(0), 16)
        }
        short => (short, 8),
    };
    let box_end = position.checked_add(length).ok_or_else(damaged)?;
    if length < header || box_end > end {
        return Err(damaged());
    }
    Ok(Box4 {
        kind: [bytes[4], bytes[5], bytes[6], bytes[7]],
        body: position + header,
        end: box_end,
    })
}

fn body(file: &mut (impl Read + Seek), child: &Box4) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(child.body))?;
    let mut bytes = Vec::new();
    file.take((child.end - child.body).min(MAX_BODY))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset + 8)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn make(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut out = (body.len() as u32 + 8).to_be_bytes().to_vec();
        out.extend_from_slice(kind);
        out.extend_from_slice(body);
        out
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    fn movie(edits: &[u32]) -> Vec<u8> {
        let track = [
            make(b"tkhd", &words(&[0, 0, 0, 7, 0])),
            make(b"edts", &make(b"elst", &words(edits))),
            make(b"mdia", &make(b"mdhd", &words(&[0, 0, 0, 44_100, 0]))),
        ]
        .concat();
        let moov = [
            make(b"mvhd", &words(&[0, 0, 0, 1000, 0])),
            make(b"trak", &track),
        ]
        .concat();
        [
            make(b"ftyp", b"M4A "),
            make(b"mdat", &[0; 30]),
            make(b"moov", &moov),
        ]
        .concat()
    }

    #[test]
    fn the_edit_is_found_behind_the_media() {
        let bytes = movie(&[0, 1, 500, 1024, 0x10000]);
        let edit = edit_of_track(&mut Cursor::new(&bytes), 7).unwrap();
        assert_eq!((edit.start, edit.movie_duration), (1024, 500));
        assert_eq!((edit.movie_timescale, edit.timescale), (1000, 44_100));
        assert!(edit_of_track(&mut Cursor::new(&bytes), 8).is_none());
    }

    #[test]
    fn several_edits_are_not_taken() {
        assert!(edit_of_track(&mut Cursor::new(movie(&[0, 2, 5, 0, 1, 5, 9, 1])), 7).is_none());
        // An initial pause is no edit of the media.
        let edit =
            edit_of_track(&mut Cursor::new(movie(&[0, 2, 5, u32::MAX, 1, 5, 9, 1])), 7).unwrap();
        assert_eq!(edit.start, 9);
    }

    #[test]
    fn damage_gives_nothing() {
        let bytes = movie(&[0, 1, 500, 1024, 0x10000]);
        for len in 0..bytes.len() {
            let _ = edit_of_track(&mut Cursor::new(&bytes[..len]), 7);
        }
        for position in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[position] = value;
                let _ = edit_of_track(&mut Cursor::new(&damaged), 7);
            }
        }
    }
}
