//! Strings of the server, and a command's arguments.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use redis_module::{RedisString, raw};
use smallvec::SmallVec;

use super::state::CallsNothingBack;
use crate::error::Error;

/// A string of the server that lives for `'a`. Its memory is only the address, so the server takes an array of them.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Str<'a> {
    raw: CallsNothingBack<*mut raw::RedisModuleString>,
    alive: PhantomData<&'a [u8]>,
}

impl<'a> Str<'a> {
    /// # Safety
    /// The string must live for `'a`.
    pub(crate) const unsafe fn from_raw(raw: *mut raw::RedisModuleString) -> Self {
        Self {
            raw: CallsNothingBack::new(raw),
            alive: PhantomData,
        }
    }

    pub(crate) const fn as_raw(self) -> *mut raw::RedisModuleString {
        self.raw.get()
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        let mut len = MaybeUninit::uninit();
        // SAFETY: the string lives for `'a` and strings of the server do not change while they are shared. The length is
        // always written.
        unsafe {
            let bytes = often!(RedisModule_StringPtrLen(self.as_raw(), len.as_mut_ptr()));
            std::slice::from_raw_parts(bytes.cast(), len.assume_init())
        }
    }
}

/// A string that the module made.
#[derive(Debug)]
pub(crate) struct OwnedStr(RedisString);

impl OwnedStr {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(RedisString::create_from_slice(std::ptr::null_mut(), bytes))
    }

    pub(crate) fn from_number(number: i64) -> Self {
        let ctx = std::ptr::null_mut();
        // SAFETY: the context is optional.
        let made = unsafe { api!(RedisModule_CreateStringFromLongLong(ctx, number)) };
        Self(RedisString::from_redis_module_string(ctx, made))
    }

    pub(crate) const fn as_str(&self) -> Str<'_> {
        // SAFETY: the string lives as long as `self`.
        unsafe { Str::from_raw(self.0.inner) }
    }
}

/// The options of a command that have a number, as words: name, number.
pub(crate) fn options(numbers: &[(&[u8], Option<u64>)]) -> SmallVec<[OwnedStr; 10]> {
    let given = numbers.iter();
    let given = given.filter_map(|&(name, number)| Some((name, number?)));
    given
        .flat_map(|(name, number)| [OwnedStr::new(name), OwnedStr::from_number(number as i64)])
        .collect()
}

/// The arguments of the command that runs, its name first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Args<'a> {
    argv: &'a [Str<'a>],
}

/// Storage for arguments as bytes, without an allocation if there are few.
#[derive(Debug)]
pub(crate) struct Words<'a> {
    few: [MaybeUninit<&'a [u8]>; 16],
    many: Vec<&'a [u8]>,
}

impl Words<'_> {
    pub(crate) const fn new() -> Self {
        Self {
            few: [MaybeUninit::uninit(); 16],
            many: Vec::new(),
        }
    }
}

impl<'a> Args<'a> {
    /// # Safety
    /// `argv` must point to `argc` strings, at least the command's name, that live for `'a`.
    pub(crate) unsafe fn from_raw(argv: *mut *mut raw::RedisModuleString, argc: c_int) -> Self {
        // SAFETY: by the caller's promise.
        let argv = unsafe { std::slice::from_raw_parts(argv.cast(), argc as usize) };
        Self { argv }
    }

    /// All words, the name first.
    pub(crate) const fn all(self) -> &'a [Str<'a>] {
        self.argv
    }

    /// The number of arguments, without the command's name.
    pub(crate) const fn len(self) -> usize {
        self.argv.len() - 1
    }

    /// The only argument. Another number of arguments is [`Error::WrongArity`].
    pub(crate) fn only(self) -> Result<Str<'a>, Error> {
        self.exactly::<1>().map(|[only]| only)
    }

    pub(crate) fn exactly<const N: usize>(self) -> Result<[Str<'a>; N], Error> {
        let args = self.argv.get(1..).and_then(|args| args.try_into().ok());
        args.ok_or(Error::WrongArity)
    }

    /// The first argument, and those after it. Without arguments, [`Error::WrongArity`].
    pub(crate) fn split_first(self) -> Result<(Str<'a>, Self), Error> {
        let [_, argv @ ..] = self.argv else {
            return Err(Error::WrongArity);
        };
        let first = *argv.first().ok_or(Error::WrongArity)?;
        Ok((first, Self { argv })) // It stands in the place of their name.
    }

    /// Each argument as the only one.
    pub(crate) fn each(self) -> impl Iterator<Item = Self> {
        // The argument before it stands in the place of the name.
        self.argv.windows(2).map(|argv| Self { argv })
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Str<'a>> + Clone {
        self.argv.get(1..).unwrap_or_default().iter().copied()
    }

    /// The arguments as bytes, for a parser. Fewer than `at_least` are [`Error::WrongArity`].
    ///
    /// They are written to the caller's storage, which is too large to be moved out of here for every command.
    #[inline(always)]
    pub(crate) fn words<'w>(
        self,
        at_least: usize,
        storage: &'w mut Words<'a>,
    ) -> Result<&'w [&'a [u8]], Error> {
        let [_, argv @ ..] = self.argv else {
            return Err(Error::WrongArity);
        };
        let count = argv.len();
        if count < at_least {
            return Err(Error::WrongArity);
        }
        let Some(few) = storage.few.get_mut(..count) else {
            storage.many = self.iter().map(Str::bytes).collect();
            return Ok(&storage.many);
        };
        for (word, arg) in few.iter_mut().zip(argv) {
            word.write(arg.bytes());
        }
        // SAFETY: there are no more strings than words, so each of these was just written.
        Ok(unsafe { std::slice::from_raw_parts(storage.few.as_ptr().cast(), count) })
    }
}
