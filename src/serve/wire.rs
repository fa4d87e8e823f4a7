//! Requests of a stream, read from their bytes: what was said before is not read again.
//!
//! Most of a plain sample says what it is a sample of. These bytes, without value and time, are its
//! *identity*; the engine knows what they mean after the first time. The encoding is protobuf's
//! (<https://protobuf.dev/programming-guides/encoding/>), and what is read is what prost would.

use super::convert::{self, declared, timestamp};
use super::proto::v1;
use crate::engine::{self, Declared, Name, Of, Sample};
use crate::state::Value;
use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field, uint64};
use prost::{DecodeError, Message};
use std::ops::Range;

/// A request as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wire(Bytes);

impl Wire {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Message for Wire {
    fn encode_raw(&self, out: &mut impl BufMut) {
        out.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buf, context)
    }

    fn merge(&mut self, mut buf: impl Buf) -> Result<(), DecodeError> {
        self.0 = buf.copy_to_bytes(buf.remaining());
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Why bytes are no request.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// A field is not what it must be.
    #[error(transparent)]
    Field(#[from] DecodeError),
    /// It ends too soon.
    #[error("a field ends beyond its message")]
    Short,
}

/// A request that was read. It is used again for the next.
#[derive(Default)]
pub struct Reading {
    hello: Option<v1::Hello>,
    sequence: u64,
    series: Vec<v1::Series>,
    packed: v1::Packed,
    samples: Vec<Read>,
    /// Samples of what was not known, in words.
    named: Vec<v1::Metric>,
    /// Their identities, one after the other.
    identities: Vec<u8>,
}

struct Read {
    of: Identity,
    value: Option<Value>,
    time: Option<prost_types::Timestamp>,
}

enum Identity {
    Known(Name),
    /// A place in `named`, and where its identity is.
    Named(usize, Range<usize>),
}

impl Reading {
    /// Reads a request of this stream.
    pub fn read(&mut self, request: &[u8], stream: &engine::Stream) -> Result<(), Malformed> {
        self.hello = None;
        self.sequence = 0;
        self.series.clear();
        self.packed.clear();
        self.samples.clear();
        self.named.clear();
        self.identities.clear();
        let mut rest = request;
        while !rest.is_empty() {
            let (tag, wire_type) = decode_key(&mut rest)?;
            match tag {
                1 => self.hello.get_or_insert_default().merge(part(wire_type, &mut rest)?)?,
                2 => {
                    let context = DecodeContext::default();
                    uint64::merge(wire_type, &mut self.sequence, &mut rest, context)?;
                }
                3 => {
                    let metric = part(wire_type, &mut rest)?;
                    self.read_metric(metric, stream)?;
                }
                4 => self.series.push(v1::Series::decode(part(wire_type, &mut rest)?)?),
                5 => read_packed(&mut self.packed, part(wire_type, &mut rest)?)?,
                _ => skip_field(wire_type, tag, &mut rest, DecodeContext::default())?,
            }
        }
        Ok(())
    }

    fn read_metric(&mut self, metric: &[u8], stream: &engine::Stream) -> Result<(), Malformed> {
        let before = self.identities.len();
        let (mut value, mut time) = (None, None::<prost_types::Timestamp>);
        let mut rest = metric;
        while !rest.is_empty() {
            let field = rest;
            let (tag, wire_type) = decode_key(&mut rest)?;
            match tag {
                3 => value = Some(Value::Increment(double(wire_type, &mut rest)?)),
                4 => value = Some(Value::Observation(double(wire_type, &mut rest)?)),
                6 => time.get_or_insert_default().merge(part(wire_type, &mut rest)?)?,
                1 | 2 | 5 | 7 | 8 => {
                    part(wire_type, &mut rest)?;
                    let field = &field[..field.len() - rest.len()];
                    self.identities.extend_from_slice(field);
                }
                _ => skip_field(wire_type, tag, &mut rest, DecodeContext::default())?,
            }
        }
        let identity = before..self.identities.len();
        let of = if let Some(name) = stream.find(&self.identities[identity.clone()]) {
            self.identities.truncate(before);
            Identity::Known(name)
        } else {
            self.named.push(v1::Metric::decode(metric)?);
            Identity::Named(self.named.len() - 1, identity)
        };
        self.samples.push(Read { of, value, time });
        Ok(())
    }

    /// How it opens a session, if it does.
    pub fn hello(&self) -> Option<&v1::Hello> {
        self.hello.as_ref()
    }

    /// Its number; 0 if it has none.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether it has samples, in whatever form.
    pub fn has_samples(&self) -> bool {
        !self.samples.is_empty() || self.packed.encoded_len() > 0
    }

    /// The series that it declares.
    pub fn declared(&self) -> impl Iterator<Item = Declared<'_>> {
        self.series.iter().map(declared)
    }

    /// Its samples in the plain form.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = Sample<'_>> {
        self.samples.iter().map(|sample| Sample {
            of: match &sample.of {
                Identity::Known(name) => Of::Known(*name),
                Identity::Named(metric, identity) => {
                    let source = convert::source(&self.named[*metric]);
                    Of::Named(source, &self.identities[identity.clone()])
                }
            },
            value: sample.value,
            time: sample.time.as_ref().map(timestamp),
        })
    }

    /// Its samples in the packed form.
    pub fn packed(&self) -> engine::Packed<'_> {
        convert::packed(&self.packed)
    }
}

/// Reads columns; the long ones as a whole.
fn read_packed(packed: &mut v1::Packed, mut rest: &[u8]) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest)?;
        let doubles = match tag {
            1 if wire_type == WireType::LengthDelimited => {
                let refs = part(wire_type, &mut rest)?;
                read_refs(&mut packed.refs, refs)?;
                continue;
            }
            2 => &mut packed.increments,
            3 => &mut packed.observations,
            6 => &mut packed.sums,
            7 => &mut packed.minima,
            8 => &mut packed.maxima,
            9 => &mut packed.lasts,
            _ => {
                packed.merge_field(tag, wire_type, &mut rest, DecodeContext::default())?;
                continue;
            }
        };
        if wire_type == WireType::LengthDelimited {
            let (numbers, []) = part(wire_type, &mut rest)?.as_chunks() else {
                return Err(Malformed::Short);
            };
            doubles.extend(numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)));
        } else {
            packed.merge_field(tag, wire_type, &mut rest, DecodeContext::default())?;
        }
    }
    Ok(())
}

/// Varints, of which most have one or two bytes.
fn read_refs(refs: &mut Vec<u32>, mut rest: &[u8]) -> Result<(), Malformed> {
    refs.reserve(rest.len() / 2);
    loop {
        match rest {
            [] => return Ok(()),
            [one @ ..0x80, after @ ..] => {
                refs.push(u32::from(*one));
                rest = after;
            }
            [low, high @ ..0x80, after @ ..] => {
                refs.push(u32::from(*low & 0x7f) | u32::from(*high) << 7);
                rest = after;
            }
            _ => refs.push(decode_varint(&mut rest)? as u32),
        }
    }
}

/// The bytes of a field that has a length.
fn part<'a>(wire_type: WireType, rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    prost::encoding::check_wire_type(WireType::LengthDelimited, wire_type)?;
    let length = decode_varint(rest)?;
    let length = usize::try_from(length).map_err(|_| Malformed::Short)?;
    let (part, after) = rest.split_at_checked(length).ok_or(Malformed::Short)?;
    *rest = after;
    Ok(part)
}

fn double(wire_type: WireType, rest: &mut &[u8]) -> Result<f64, DecodeError> {
    let mut number = 0.0;
    prost::encoding::double::merge(wire_type, &mut number, rest, DecodeContext::default())?;
    Ok(number)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
