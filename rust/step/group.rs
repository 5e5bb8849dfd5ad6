//! What parameters of a step have in common: those of one rule at one count, and those that a rule looks at together.

use smallvec::SmallVec;
use std::ops::Range;

use super::{Parameter, Reason, Refused};
use crate::loops::dtype::{Compute, DType};
use crate::memory::reserve::{OutOfMemory, Put};
use crate::program::contract::{Asks, Facts, Hyper, Rounding, Scalars};
use crate::program::{Link, Program};

/// The step counts of a rule; those of most chains need no memory of their own.
type Counts = SmallVec<[u64; 4]>;

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
    counts: Counts,
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
    /// The links that are stamped, also those that the step does not reach: a part of [`Asked::stamped`].
    pub stamped: Range<usize>,
    /// Whether the step is known to be able to use all hyper-parameters.
    pub is_checked: bool,
}

/// What the rules of all groups ask.
#[derive(Default)]
pub(super) struct Asked<'a> {
    pub questions: Vec<Question<'a>>,
    /// Links that are stamped, and the number of the [`Whole`] of each.
    pub stamped: Vec<(usize, usize)>,
    pub wholes: Vec<Whole<'a>>,
}

impl<'a> Asked<'a> {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.questions.clear();
        self.stamped.clear();
        self.wholes.clear();
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
            counts: counts.into(),
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
            stamped: asked.stamped.len()..0,
            is_checked: !program.is_scheduled() || p.given().is_some(),
        };
        if program.is_stamped {
            for (link, of) in program.links.iter().enumerate().filter(|(_, of)| of.stamp().is_some()) {
                let whole = Whole::find(&mut asked.wholes, of, &group.hyper(p, link))?;
                asked.stamped.put((link, whole))?;
            }
        }
        for link in 0..reach {
            let hyper = group.hyper(p, link);
            scalars.put(program.scalars(link, &hyper, counts, group.rounding))?;
            let of = &program.links[link];
            if of.asks() {
                let asks = of.kernel.asks(&hyper);
                let whole = if asks.of_group() { Some(Whole::find(&mut asked.wholes, of, &hyper)?) } else { None };
                asked.questions.put(Question { link, of, hyper, asks, whole })?;
            }
        }
        (group.questions.end, group.stamped.end) = (asked.questions.len(), asked.stamped.len());
        Ok(group)
    }

    /// Works the scalars out anew for the counts that a parameter of the group has now; whether the step reaches as far as
    /// before.
    pub fn renew<P: Parameter<'a>>(&mut self, i: usize, p: &P, scalars: &mut [Scalars]) -> Result<bool, Refused> {
        self.counts.copy_from_slice(p.counts());
        if (self.reach, self.steps) != self.program.reach(&self.counts) {
            return Ok(false);
        }
        if self.program.is_scheduled()
            && let Some(reason) = self.program.refusal(self.dtype, Some(&self.counts))
        {
            return Err(Refused::by(i, Reason::Value(reason)));
        }
        for (link, to) in scalars[self.scalars..][..self.reach].iter_mut().enumerate() {
            *to = self.program.scalars(link, &self.hyper(p, link), &self.counts, self.rounding);
        }
        Ok(true)
    }

    fn hyper<P: Parameter<'a>>(&self, p: &P, link: usize) -> Hyper {
        p.given().map_or_else(|| self.program.hyper(link, p.counts()), |given| given[link])
    }

    /// Whether it is the group of this parameter.
    #[inline]
    pub fn has<P: Parameter<'a>>(&self, p: &P) -> bool {
        std::ptr::eq(self.program, p.program())
            && self.counts.iter().eq(p.counts()) // a few numbers: no call
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
    /// The greatest stamp of all parameters whose rules have the link, members or not.
    pub stamp: u64,
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
    /// The number of the one with this link; a new one, if there is none.
    fn find(wholes: &mut Vec<Self>, of: &'a Link, hyper: &Hyper) -> Result<usize, OutOfMemory> {
        if let Some(i) = wholes.iter().position(|whole| whole.of.equals(&whole.hyper, of, hyper)) {
            return Ok(i);
        }
        wholes.put(Self {
            of,
            hyper: *hyper,
            members: 0,
            arrived: 0,
            facts: Facts::NONE,
            stamp: 0,
            greatest: 0.0,
            unit: None,
            sum: 0.0,
            culprit: None,
            skipped: false,
        })?;
        Ok(wholes.len() - 1)
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
    pub fn close(&mut self) {
        if let Some(at) = self.of.stamp() {
            self.facts.greatest[at] = self.stamp;
        }
        self.facts.norm = match self.greatest {
            greatest if !greatest.is_finite() || greatest == 0.0 => greatest,
            _ => libm::ldexp(self.sum.sqrt(), self.exponent()),
        };
    }

    /// Where the greatest norm is `m 2^e` with `m` from 1/2 to 1, this `e`, or nearly: norms over `2^e` have squares that
    /// neither over- nor underflow.
    fn exponent(&self) -> i32 {
        libm::frexp(self.greatest).1.max(-1000)
    }
}
