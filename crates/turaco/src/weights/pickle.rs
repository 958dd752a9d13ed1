//! A pickle reader that can only build data.
//!
//! Python's pickle is a program for a small stack machine that may call anything. This machine knows the instructions that
//! `torch.save` writes for state dictionaries, and the handful of names that are needed to describe tensors; any other
//! name ends the reading. Nothing is ever executed.
//!
//! Instruction set: CPython's `Lib/pickletools.py`. Values live in an arena and refer to each other by number, so that
//! sharing and cycles are harmless and nothing is recursive.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::cursor::Cursor;
use super::{Bytes, DType, printable};
use crate::{Error, Result};

/// State dictionaries of the largest models take a few hundred kilobytes.
const MAX_BYTES: usize = 4 << 20;
/// Names of tensors are far shorter.
const MAX_TEXT_BYTES: usize = 4096;

/// Number of a value in [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(u32);

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(Arc<str>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(StridedTensor),
}

/// The names that may occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(DType),
}

/// A run of numbers in a file of its own.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    pub(super) dtype: DType,
    pub(super) key: Arc<str>,
    pub(super) len: usize,
}

/// A view of a storage; all numbers in values, not bytes.
#[derive(Debug, Clone)]
pub(super) struct StridedTensor {
    pub(super) storage: Storage,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// All values of a pickle.
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    /// Reads a whole pickle; `path` is for messages.
    pub(super) fn parse(path: &Path, bytes: &Bytes) -> Result<Self> {
        let mut machine = Machine {
            cursor: Cursor::new(path, bytes),
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
        };
        if bytes.len() > MAX_BYTES {
            return Err(machine.cursor.error(format!(
                "the pickle has {} bytes, more than a model's ({MAX_BYTES})",
                bytes.len()
            )));
        }
        let root = machine.run()?;
        Ok(Self {
            values: machine.values,
            root,
        })
    }

    pub(super) fn root(&self) -> &Value {
        self.get(self.root)
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        // Ids are made by `Machine::push` only.
        &self.values[id.0 as usize]
    }

    /// Entries of a dictionary whose keys are texts; others are left out.
    pub(super) fn entries<'a>(
        &'a self,
        dict: &'a [(Id, Id)],
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        dict.iter().filter_map(|&(key, value)| match self.get(key) {
            Value::Text(key) => Some((&**key, self.get(value))),
            _ => None,
        })
    }
}

struct Machine<'a> {
    cursor: Cursor<'a>,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id> {
        loop {
            let opcode = self.cursor.u8("pickle instruction")?;
            match opcode {
                // PROTO, FRAME
                0x80 => drop(self.cursor.u8("protocol")?),
                0x95 => drop(self.cursor.u64("frame")?),
                // STOP
                b'.' => return self.pop(),
                // MARK, POP, POP_MARK
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),
                // NONE, NEWTRUE, NEWFALSE
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool)?,
                0x89 => self.push(Value::Bool)?,
                // BININT, BININT1, BININT2, LONG1, BINFLOAT
                b'J' => {
                    let value = self.cursor.u32("integer")?;
                    self.push(Value::Int(i64::from(value.cast_signed())))?;
                }
                b'K' => {
                    let value = self.cursor.u8("integer")?;
                    self.push(Value::Int(i64::from(value)))?;
                }
                b'M' => {
                    let value = self.cursor.u16("integer")?;
                    self.push(Value::Int(i64::from(value)))?;
                }
                0x8a => {
                    let value = self.long()?;
                    self.push(Value::Int(value))?;
                }
                b'G' => {
                    self.cursor.take(8, "float")?;
                    self.push(Value::Float)?;
                }
                // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, BINSTRING, SHORT_BINSTRING
                b'X' | b'T' => {
                    let len = self.cursor.size("length of a text")?;
                    self.text(len)?;
                }
                0x8c | b'U' => {
                    let len = usize::from(self.cursor.u8("length of a text")?);
                    self.text(len)?;
                }
                0x8d => {
                    let len = self.cursor.offset("length of a text")?;
                    self.text(len)?;
                }
                // EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3
                b')' => self.push(Value::Tuple(Vec::new()))?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items))?;
                }
                0x85..=0x87 => {
                    let mut items = Vec::new();
                    for _ in 0..opcode - 0x84 {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push(Value::Tuple(items))?;
                }
                // EMPTY_LIST, APPEND, APPENDS
                b']' => self.push(Value::List(Vec::new()))?,
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                // EMPTY_DICT, SETITEM, SETITEMS
                b'}' => self.push(Value::Dict(Vec::new()))?,
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(&items)?;
                }
                // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
                b'q' => {
                    let key = u32::from(self.cursor.u8("memo number")?);
                    self.memoize(key)?;
                }
                b'r' => {
                    let key = self.cursor.u32("memo number")?;
                    self.memoize(key)?;
                }
                0x94 => {
                    let key = u32::try_from(self.memo.len()).unwrap_or(u32::MAX);
                    self.memoize(key)?;
                }
                b'h' => {
                    let key = u32::from(self.cursor.u8("memo number")?);
                    self.recall(key)?;
                }
                b'j' => {
                    let key = self.cursor.u32("memo number")?;
                    self.recall(key)?;
                }
                // GLOBAL, STACK_GLOBAL
                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let name = self.pop_text()?;
                    let module = self.pop_text()?;
                    self.global(&module, &name)?;
                }
                // REDUCE, BUILD, BINPERSID
                b'R' => self.reduce()?,
                // What BUILD adds to a dictionary or tensor (versions of modules) says nothing about weights.
                b'b' => drop(self.pop()?),
                b'Q' => self.storage()?,
                other => {
                    return Err(self.error(format!(
                        "instruction {other:#04x} is not among those of a state dictionary"
                    )));
                }
            }
        }
    }

    fn error(&self, message: impl std::fmt::Display) -> Error {
        self.cursor.error(format!(
            "pickle, byte {}: {message}",
            self.cursor.position().saturating_sub(1)
        ))
    }

    fn push(&mut self, value: Value) -> Result<()> {
        let id = u32::try_from(self.values.len())
            .map(Id)
            .map_err(|_| self.error("too many values"))?;
        self.values.push(value);
        self.stack.push(id);
        Ok(())
    }

    fn value(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    fn pop(&mut self) -> Result<Id> {
        // A mark is a floor.
        if self.stack.len() > self.marks.last().copied().unwrap_or(0)
            && let Some(id) = self.stack.pop()
        {
            return Ok(id);
        }
        Err(self.error("a value is missing on the stack"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let height = self
            .marks
            .pop()
            .ok_or_else(|| self.error("a mark is missing on the stack"))?;
        Ok(self.stack.split_off(height))
    }

    fn pop_text(&mut self) -> Result<Arc<str>> {
        let id = self.pop()?;
        match self.value(id) {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(self.error("expected a text")),
        }
    }

    fn top(&self) -> Result<Id> {
        self.stack
            .last()
            .copied()
            .ok_or_else(|| self.error("a value is missing on the stack"))
    }

    fn text(&mut self, len: usize) -> Result<()> {
        let bytes = self.cursor.take(len, "text")?;
        if len > MAX_TEXT_BYTES {
            return Err(self.error(format!("a text of {len} bytes is too long for a name")));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| self.error("a text is no UTF-8"))?;
        self.push(Value::Text(text.into()))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        loop {
            match self.cursor.u8("name")? {
                b'\n' => return Ok(line),
                byte if byte.is_ascii_graphic() && line.len() < 256 => line.push(byte.into()),
                _ => return Err(self.error("a name is not plain text")),
            }
        }
    }

    /// A little-endian number of at most eight bytes, in two's complement.
    fn long(&mut self) -> Result<i64> {
        let len = usize::from(self.cursor.u8("length of an integer")?);
        let bytes = self.cursor.take(len, "integer")?;
        if len > 8 {
            return Err(self.error("an integer has more than 64 bits"));
        }
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..len].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(wide))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let list = self.top()?;
        match &mut self.values[list.0 as usize] {
            Value::List(list) => {
                list.extend(items);
                Ok(())
            }
            _ => Err(self.error("expected a list")),
        }
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.values[dict.0 as usize] {
            Value::Dict(dict) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            _ => Err(self.error("expected a dictionary and pairs")),
        }
    }

    fn memoize(&mut self, key: u32) -> Result<()> {
        let id = self.top()?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let id = *self
            .memo
            .get(&key)
            .ok_or_else(|| self.error(format!("nothing is remembered under {key}")))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let global = match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "HalfStorage") => Global::Storage(DType::F16),
            ("torch", "BFloat16Storage") => Global::Storage(DType::Bf16),
            ("torch", "FloatStorage") => Global::Storage(DType::F32),
            ("torch", "DoubleStorage") => Global::Storage(DType::F64),
            ("torch", "LongStorage") => Global::Storage(DType::I64),
            ("torch", "IntStorage") => Global::Storage(DType::I32),
            ("torch", "ShortStorage") => Global::Storage(DType::I16),
            ("torch", "CharStorage") => Global::Storage(DType::I8),
            ("torch", "ByteStorage" | "BoolStorage") => Global::Storage(DType::U8),
            _ => {
                return Err(self.error(format!(
                    "`{}.{}` is not among the types of a state dictionary; it was not run (save the model's state_dict, or use safetensors)",
                    printable(module),
                    printable(name)
                )));
            }
        };
        self.push(Value::Global(global))
    }

    /// Applies a permitted constructor.
    fn reduce(&mut self) -> Result<()> {
        let arguments = self.pop()?;
        let callable = self.pop()?;
        let Value::Tuple(arguments) = self.value(arguments) else {
            return Err(self.error("arguments are no tuple"));
        };
        let built = match self.value(callable) {
            Value::Global(Global::OrderedDict) if arguments.is_empty() => {
                Some(Value::Dict(Vec::new()))
            }
            Value::Global(Global::RebuildParameter) => {
                arguments.first().and_then(|&id| match self.value(id) {
                    Value::Tensor(tensor) => Some(Value::Tensor(tensor.clone())),
                    _ => None,
                })
            }
            Value::Global(Global::RebuildTensor) => self.tensor(arguments).map(Value::Tensor),
            _ => None,
        };
        let built = built.ok_or_else(|| self.error("a tensor is described in an unknown way"))?;
        self.push(built)
    }

    /// Storage, offset, shape, strides, and things that matter for training only.
    fn tensor(&self, arguments: &[Id]) -> Option<StridedTensor> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return None;
        };
        let Value::Storage(storage) = self.value(storage) else {
            return None;
        };
        let sizes = |id: Id| match self.value(id) {
            Value::Tuple(items) if items.len() <= 8 => {
                items.iter().map(|&item| self.size(item)).collect()
            }
            _ => None,
        };
        let tensor = StridedTensor {
            storage: storage.clone(),
            offset: self.size(offset)?,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        };
        (tensor.shape.len() == tensor.strides.len()).then_some(tensor)
    }

    fn size(&self, id: Id) -> Option<usize> {
        match self.value(id) {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// A persistent id: ("storage", type, key, device, number of values).
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let parsed = match self.value(id) {
            Value::Tuple(parts) => match parts.as_slice() {
                &[kind, storage_type, key, _device, len] => {
                    match (
                        self.value(kind),
                        self.value(storage_type),
                        self.value(key),
                        self.size(len),
                    ) {
                        (
                            Value::Text(kind),
                            Value::Global(Global::Storage(dtype)),
                            Value::Text(key),
                            Some(len),
                        ) if &**kind == "storage" => Some(Storage {
                            dtype: *dtype,
                            key: Arc::clone(key),
                            len,
                        }),
                        _ => None,
                    }
                }
                _ => None,
            },
            _ => None,
        };
        let storage =
            parsed.ok_or_else(|| self.error("a storage is described in an unknown way"))?;
        self.push(Value::Storage(storage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Pickle> {
        Pickle::parse(Path::new("data.pkl"), &bytes.to_vec().into())
    }

    fn message(bytes: &[u8]) -> String {
        parse(bytes)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn builds_plain_data() {
        // {"a": (1, -2, 300), "b": [None, True]} with every way of writing integers.
        let pickle = parse(
            b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01J\xfe\xff\xff\xff\x8a\x02\x2c\x01\x87X\x01\x00\x00\x00b](N\x88eu.",
        )
        .unwrap();
        let Value::Dict(entries) = pickle.root() else {
            panic!("no dictionary")
        };
        let entries: Vec<_> = pickle.entries(entries).collect();
        assert_eq!(entries[0].0, "a");
        let Value::Tuple(items) = entries[0].1 else {
            panic!("no tuple")
        };
        let numbers: Vec<_> = items
            .iter()
            .map(|&id| match pickle.get(id) {
                Value::Int(value) => *value,
                _ => 0,
            })
            .collect();
        assert_eq!(numbers, [1, -2, 300]);
        assert!(matches!(entries[1].1, Value::List(items) if items.len() == 2));
    }

    #[test]
    fn foreign_names_are_refused() {
        let text = message(b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.");
        assert!(text.contains("`os.system` is not among"), "{text}");
        let text = message(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.");
        assert!(text.contains("`builtins.eval`"), "{text}");
        let text = message(b"\x80\x02ctorch\nload\n.");
        assert!(text.contains("`torch.load`"), "{text}");
        // INST, OBJ and EXT would call things in other ways.
        for bytes in [&b"(ios\nsystem\n."[..], b"(cos\nsystem\no.", b"\x82\x01."] {
            assert!(parse(bytes).is_err());
        }
    }

    #[test]
    fn broken_programs_are_errors() {
        for bytes in [
            &b""[..],
            b".",
            b"0.",
            b"t.",
            b"(N0.",
            b"(0.",
            b"h\x05.",
            b"q\x01.",
            b"Na.",
            b"}Ns.",
            b"}(Nu.",
            b"NNR.",
            b"N)R.",
            b"NQ.",
            b"X\xff\xff\xff\xff.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
            b"X\x01\x00\x00\x00\xff.",
            b"\x8a\x09123456789.",
            b"ccollections\nOrderedDict\n(NtR.",
            b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
            b"\xff",
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
