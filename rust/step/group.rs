//! What parameters of a step have in common: those of one rule at one count, and those that a rule looks at together.

use rustc_hash::{FxHashMap, FxHasher};
use smallvec::SmallVec;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use super::{Parameter, Reason, Refused};
use crate::loops::dtype::{Compute, DType};
use crate::memory::reserve::{OutOfMemory, Put, Reserve};
use crate::program::contract::{Asks, Facts, Hyper, Rounding, Scalars};
use crate::program::{Link, Program};

/// A link that must know whole gradients, at one step.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    /// Which link.
    pub link: usize,
    /// The link itself.
    pub of: &'a Link,
    /// Its hyper-parameters.
    pub hyper: Hyper,
    /// What it asks.
    pub asks: Asks,
    /// Which [`Whole`] it asks about, if it asks about one.
    pub whole: Option<usize>,
}

/// What the steps of all parameters with one rule at one count have in common.
pub(super) struct StepGroup<'a> {
    program: &'a Program,
    given: *const Hyper,
    /// A part of [`Asked::counts`].
    counts: Range<usize>,
    /// The type of the parameter.
    dtype: DType,
    /// How many links the step reaches.
    pub reach: usize,
    /// Whether it reaches the parameter.
    pub steps: bool,
    /// The state arrays of the links that are reached.
    pub slots: Range<usize>,
    /// Where the scalars of the links start.
    pub scalars: usize,
    /// The end of all state arrays.
    pub arrays: usize,
    /// The type in which the parameter is stepped.
    pub working: DType,
    /// The type in which the links compute.
    pub compute: Compute,
    /// How scalars are rounded.
    pub rounding: Rounding,
    /// The links that must know whole gradients: a part of [`Asked::questions`].
    pub questions: Range<usize>,
    /// Whether the step is known to be able to use all hyper-parameters.
    pub is_checked: bool,
}

/// What the rules of all groups ask.
#[derive(Default)]
pub(super) struct Asked<'a> {
    pub questions: Vec<Question<'a>>,
    pub wholes: Vec<Whole<'a>>,
    /// Numbers of wholes by what they are looked up by.
    index: FxHashMap<u64, usize>,
    /// The step counts of all groups.
    pub counts: SmallVec<[u64; 8]>,
    /// The greatest stamp in the states of all parameters.
    pub stamp: u64,
}

impl<'a> Asked<'a> {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.questions.clear();
        self.wholes.clear();
        self.index.clear();
        self.counts.clear();
        self.stamp = 0;
    }

    /// The number of the whole with this link; a new one, if there is none.
    fn whole(&mut self, of: &'a Link, hyper: &Hyper) -> Result<usize, OutOfMemory> {
        let Self { wholes, index, .. } = self;
        let mut hasher = FxHasher::default();
        (of.entry.name, &of.label, hyper).hash(&mut hasher);
        let key = hasher.finish();
        if let Some(&i) = index.get(&key) {
            let found =
                if wholes[i].is_of(of, hyper) { Some(i) } else { wholes.iter().position(|w| w.is_of(of, hyper)) };
            if let Some(i) = found {
                return Ok(i);
            }
        }
        index.make_room(1)?;
        wholes.put(Whole::new(of, hyper))?;
        index.insert(key, wholes.len() - 1);
        Ok(wholes.len() - 1)
    }

    /// What a link asks, if it does.
    pub fn question(&self, group: &StepGroup<'a>, link: usize) -> Option<&Question<'a>> {
        self.questions[group.questions.clone()].iter().find(|question| question.link == link)
    }
}

impl<'a> StepGroup<'a> {
    /// The group of a parameter; `scalars` gets the scalars of its links.
    pub fn new<P: Parameter<'a>>(
        p: &P,
        scalars: &mut SmallVec<[Scalars; 4]>,
        asked: &mut Asked<'a>,
    ) -> Result<Self, OutOfMemory> {
        let (program, counts, dtype) = (p.program(), p.counts(), p.dtype());
        let working = program.working(dtype);
        let compute = working.compute();
        let (reach, steps) = program.reach(counts);
        let mut group = Self {
            program,
            given: p.given().map_or(std::ptr::null(), <[Hyper]>::as_ptr),
            counts: asked.counts.len()..asked.counts.len() + counts.len(),
            dtype,
            reach,
            steps,
            slots: program.slots_of(&(0..reach)),
            scalars: scalars.len(),
            arrays: program.slots_of(&(0..program.links.len())).end,
            working,
            compute,
            rounding: Rounding::of(compute).storing(dtype),
            questions: asked.questions.len()..0,
            is_checked: !program.is_scheduled() || p.given().is_some(),
        };
        asked.counts.make_room(counts.len())?;
        asked.counts.extend_from_slice(counts);
        for link in 0..reach {
            let hyper = group.hyper(p, link);
            scalars.put(program.scalars(link, &hyper, counts, group.rounding))?;
            let of = &program.links[link];
            if of.asks() {
                let asks = of.kernel.asks(&hyper);
                let whole = if asks.of_group() { Some(asked.whole(of, &hyper)?) } else { None };
                asked.questions.put(Question { link, of, hyper, asks, whole })?;
            }
        }
        group.questions.end = asked.questions.len();
        Ok(group)
    }

    /// Works the scalars out anew for the counts that a parameter of the group has now; whether the step reaches as far as
    /// before.
    pub fn renew<P: Parameter<'a>>(
        &self,
        i: usize,
        p: &P,
        counts: &mut [u64],
        scalars: &mut [Scalars],
    ) -> Result<bool, Refused> {
        let counts = &mut counts[self.counts.clone()];
        counts.copy_from_slice(p.counts());
        if (self.reach, self.steps) != self.program.reach(counts) {
            return Ok(false);
        }
        if self.program.is_scheduled()
            && let Some(reason) = self.program.refusal(self.dtype, Some(counts))
        {
            return Err(Refused::by(i, Reason::Value(reason)));
        }
        for (link, to) in scalars[self.scalars..][..self.reach].iter_mut().enumerate() {
            *to = self.program.scalars(link, &self.hyper(p, link), counts, self.rounding);
        }
        Ok(true)
    }

    fn hyper<P: Parameter<'a>>(&self, p: &P, link: usize) -> Hyper {
        p.given().map_or_else(|| self.program.hyper(link, p.counts()), |given| given[link])
    }

    /// Whether it is the group of this parameter.
    #[inline]
    pub fn has<P: Parameter<'a>>(&self, p: &P, counts: &[u64]) -> bool {
        std::ptr::eq(self.program, p.program())
            && counts[self.counts.clone()].iter().eq(p.counts()) // a few numbers: no call
            && self.dtype == p.dtype()
            && p.given().map_or(std::ptr::null(), <[Hyper]>::as_ptr) == self.given
    }

    /// Why the step of a parameter of the group cannot use a hyper-parameter, if it cannot.
    #[cold]
    pub fn check<P: Parameter<'a>>(&mut self, p: &P) -> Option<String> {
        self.is_checked = true;
        self.program.refusal(self.dtype, Some(p.counts()))
    }
}

/// All parameters whose rules have an equal link that asks about them together.
pub(super) struct Whole<'a> {
    of: &'a Link,
    hyper: Hyper,
    /// How many parameters it has.
    pub members: usize,
    /// How many of them have come to the link.
    pub arrived: usize,
    /// What is known of them.
    pub facts: Facts,
    /// The greatest of their norms.
    greatest: f64,
    /// What brings the greatest norm near 1: a power of two.
    unit: Option<f64>,
    /// The sum of the squares of their norms, each times that.
    sum: f64,
    /// The first parameter whose gradient is not finite, and the first element of it that is not, where that was asked.
    pub culprit: Option<(usize, usize)>,
    /// Whether the rule has skipped the step, and this has been noted.
    pub skipped: bool,
}

impl<'a> Whole<'a> {
    /// One of parameters whose rules have this link.
    fn new(of: &'a Link, hyper: &Hyper) -> Self {
        Self {
            of,
            hyper: *hyper,
            members: 0,
            arrived: 0,
            facts: Facts::NONE,
            greatest: 0.0,
            unit: None,
            sum: 0.0,
            culprit: None,
            skipped: false,
        }
    }

    fn is_of(&self, of: &Link, hyper: &Hyper) -> bool {
        self.of.equals(&self.hyper, of, hyper)
    }

    /// Whether all of them have come.
    pub fn is_complete(&self) -> bool {
        self.arrived == self.members
    }

    /// Takes note of the norm of a member's gradient, and of the numbers in its state.
    pub fn note(&mut self, norm: f64, facts: &Facts) {
        // Nothing is greater than NaN, which stays.
        if norm.is_nan() || norm > self.greatest {
            self.greatest = norm;
        }
        for (greatest, &number) in self.facts.greatest.iter_mut().zip(&facts.greatest) {
            *greatest = number.max(*greatest);
        }
    }

    /// Adds the norm of a member's gradient, once all are noted.
    pub fn add(&mut self, norm: f64) {
        let unit = match self.unit {
            Some(unit) => unit,
            None => *self.unit.insert(libm::ldexp(1.0, -self.exponent())),
        };
        self.sum += (norm * unit) * (norm * unit);
    }

    /// The norm of all gradients together, once all are added.
    pub fn close(&mut self, stamp: u64) {
        if let Some(at) = self.of.stamp() {
            self.facts.greatest[at] = stamp;
        }
        self.facts.norm = match self.greatest {
            greatest if !greatest.is_finite() || greatest == 0.0 => greatest,
            _ => libm::ldexp(self.sum.sqrt(), self.exponent()),
        };
    }

    /// Where the greatest norm is `m 2^e` with `m` from 1/2 to 1, this `e`, or nearly: norms over `2^e` have squares that
    /// neither over- nor underflow.
    fn exponent(&self) -> i32 {
        libm::frexp(self.greatest).1.clamp(-1000, 1000)
    }
}
