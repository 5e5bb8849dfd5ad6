//! Rules in sequence: a rule as the user wrote it, nested or not, becomes a flat list of links and a form that says how
//! their states are shown.

pub mod contract;
pub mod held;
pub mod schedules;

use crate::loops::dtype::{Compute, DType};
use crate::loops::kernel::Call;
use crate::loops::simd::Level;
use crate::rules::RULES;
use contract::{Asks, At, Entry, Facts, Hyper, Kernel, Kind, NUMBERS, Rounding, SLOTS, Scalars, Shape, Value, Verdict};
use schedules::Schedule;
use std::ops::Range;

/// A rule as Python describes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// A rule of the registry, with its hyper-parameters, and the name that the user gave it.
    Rule(String, Vec<(String, Value)>, String),
    /// A rule of the user's own.
    Own,
    /// `OptimiserChain`.
    Chain(Vec<Spec>),
    /// `MixedPrecision`.
    Mixed(Box<Spec>, DType),
    /// `Scheduled`; `None` where a function in Python is among what fields follow.
    Scheduled(Box<Spec>, Option<Followed>),
}

/// The names of scheduled fields, and what each follows: a schedule for each of its numbers.
pub type Followed = Vec<(String, Vec<Schedule>)>;

/// How the states of the links are arranged in `leaf.state`.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// The state of one link.
    Link(usize),
    /// A tuple.
    Chain(Vec<Form>),
    /// The master copy and the state of the rule inside.
    Mixed(Box<Form>),
    /// The step count of a timer and the state of the rule inside.
    Scheduled(usize, Box<Form>),
}

/// A part of a link's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The state array with this number.
    Array(usize),
    /// The step count with this number.
    Count(usize),
    /// The float whose bits are the step count with this number.
    Float(usize),
}

/// A rule of the user's own, which steps no element itself: what becomes of a gradient there is made elsewhere.
struct Own;

impl Kernel for Own {
    fn shape(&self) -> &'static Shape {
        &Shape {
            slots: &[],
            counter: None,
            numbers: &[],
            complex: true,
            lands: false,
            stores: false,
            collects: false,
            passes: true,
            scales: false,
        }
    }
    fn initial(&self, _: &Hyper) -> [f64; SLOTS] {
        [0.0; SLOTS]
    }
    fn prepare(&self, _: &Hyper, _: At, _: Rounding) -> Scalars {
        Scalars::default()
    }
    fn advance(&self, _: &Hyper, at: At, _: &Facts) -> At {
        at
    }
    fn emits(&self, _: &Hyper, _: u64) -> bool {
        true
    }
    fn asks(&self, _: &Hyper) -> Asks {
        Asks::Elsewhere
    }
    fn decide(&self, _: &Hyper, _: &Facts, _: Rounding) -> Verdict {
        Verdict::Go(Scalars::default())
    }
    unsafe fn run(&self, _: Compute, _: Level, _: &Scalars, _: &Call) {}
}

static OWN: Entry = Entry { name: "a rule of your own", fields: &[], kernel: |_| &Own };

/// What a state array starts as.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Start {
    /// This value in all elements.
    Value(f64),
    /// The parameter.
    Parameter,
}

/// A rule of the registry in a program.
pub struct Link {
    /// What the registry knows of it.
    pub entry: &'static Entry,
    /// What runs it.
    pub kernel: &'static dyn Kernel,
    /// Its hyper-parameters; where they are scheduled, as they were given.
    pub hyper: Hyper,
    /// The name that the user gave it.
    pub label: String,
    /// Which of the user's own rules it is, if it is one.
    pub own: Option<usize>,
    /// Which state arrays are its own.
    pub slots: Range<usize>,
    /// Which of the counts are its own numbers, beside its step count.
    numbers: Range<usize>,
    /// Whether all that it ever does to its counts is to count one more step.
    is_plain: bool,
    /// Whether it multiplies every gradient by its first two scalars, and does nothing else.
    pub scales: bool,
    /// Whether it must know whole gradients. What it asks for may follow a schedule, but not whether it does.
    asks: bool,
}

/// A hyper-parameter that follows a schedule.
struct Setter {
    link: usize,
    /// Where in the hyper-parameters it stands.
    at: usize,
    schedule: Schedule,
    /// The timer by which it goes.
    timer: usize,
}

/// A compiled rule.
pub struct Program {
    /// The links in the order in which the gradient passes them.
    pub links: Vec<Link>,
    /// See [`Form`].
    pub form: Form,
    /// The type of the master copy, if the rule keeps one.
    pub master: Option<DType>,
    /// Whether a schedule is a function in Python, so that only Python knows the hyper-parameters of a step.
    pub asks_python: bool,
    /// Whether the rule in Python holds numbers alone, and leads to no object of the user's; for its maker to say.
    pub plain: bool,
    /// The first link that decides where the parameter lands; behind it are only such.
    pub landing: usize,
    /// The links in each `Scheduled`: it has a step count of its own, behind those of the links.
    timers: Vec<Range<usize>>,
    setters: Vec<Setter>,
    /// How many links are rules of the user's own.
    pub owns: usize,
    /// Whether some link collects gradients, so that not every step reaches all links.
    collects: bool,
    /// Whether the state of some link says which of its group's steps was its last one.
    pub is_stamped: bool,
    /// How many state arrays there are, the master included.
    arrays: usize,
    /// How many counts there are.
    counters: usize,
}

impl Program {
    /// Compiles `spec`; `Err` says what the registry does not know.
    pub fn new(spec: &Spec) -> Result<Self, String> {
        let mut program = Self::empty();
        program.form = program.add(spec)?;
        let (mut arrays, mut counters) =
            (usize::from(program.master.is_some()), program.links.len() + program.timers.len());
        for link in &mut program.links {
            let shape = link.kernel.shape();
            link.slots = arrays..arrays + shape.slots.len();
            link.numbers = counters..counters + shape.numbers.len();
            (arrays, counters) = (link.slots.end, link.numbers.end);
            program.collects |= shape.collects;
            program.is_stamped |= link.stamp().is_some();
        }
        (program.arrays, program.counters) = (arrays, counters);
        let lands = |link: &Link| link.kernel.shape().lands;
        program.landing = program.links.iter().position(lands).unwrap_or(program.links.len());
        match program.links[program.landing..].iter().find(|link| !lands(link)) {
            Some(link) => Err(format!("{} stands behind a rule that decides where x lands", link.entry.name)),
            None => Ok(program),
        }
    }

    /// The rule of a parameter that none of ours steps.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            links: Vec::new(),
            form: Form::Chain(Vec::new()),
            master: None,
            asks_python: false,
            plain: false,
            landing: 0,
            timers: Vec::new(),
            setters: Vec::new(),
            owns: 0,
            collects: false,
            is_stamped: false,
            arrays: 0,
            counters: 0,
        }
    }

    fn add(&mut self, spec: &Spec) -> Result<Form, String> {
        match spec {
            Spec::Rule(name, values, label) => {
                let entry = RULES.iter().find(|e| e.name == name).ok_or_else(|| format!("no rule {name}"))?;
                let value = |field: &str, _| values.iter().find(|(n, _)| n == field).map(|&(_, v)| v);
                let hyper = entry.hyper(value);
                let hyper = hyper.map_err(|field| format!("{name}: {field} is missing or of a wrong type"))?;
                Ok(self.link(entry, hyper, label.clone(), None))
            }
            Spec::Own => {
                self.owns += 1;
                Ok(self.link(&OWN, Hyper::default(), String::new(), Some(self.owns - 1)))
            }
            Spec::Chain(rules) => Ok(Form::Chain(rules.iter().map(|r| self.add(r)).collect::<Result<_, _>>()?)),
            Spec::Mixed(rule, dtype) => {
                self.master = Some(*dtype);
                Ok(Form::Mixed(Box::new(self.add(rule)?)))
            }
            Spec::Scheduled(rule, fields) => {
                // Outer timers come before inner ones: so `optirs.rules.resolved` counts them.
                let (timer, first) = (self.timers.len(), self.links.len());
                self.asks_python |= fields.is_none();
                self.timers.push(0..0);
                let form = self.add(rule)?;
                self.timers[timer] = first..self.links.len();
                for (field, schedules) in fields.iter().flatten() {
                    self.follow(timer, field, schedules)?;
                }
                Ok(Form::Scheduled(timer, Box::new(form)))
            }
        }
    }

    fn link(&mut self, entry: &'static Entry, hyper: Hyper, label: String, own: Option<usize>) -> Form {
        let kernel = (entry.kernel)(&hyper);
        let shape = kernel.shape();
        let is_plain = !shape.collects && shape.numbers.is_empty();
        let asks = kernel.asks(&hyper) != Asks::Nothing;
        self.links.push(Link {
            entry,
            kernel,
            hyper,
            label,
            own,
            slots: 0..0,
            numbers: 0..0,
            is_plain,
            scales: shape.scales,
            asks,
        });
        Form::Link(self.links.len() - 1)
    }

    /// Has the field of that name of all links in a timer follow these schedules.
    fn follow(&mut self, timer: usize, field: &str, schedules: &[Schedule]) -> Result<(), String> {
        for link in self.timers[timer].clone() {
            let entry = self.links[link].entry;
            let Some((at, kind)) = entry.place(field) else { continue };
            if !matches!((kind, schedules.len()), (Kind::Float, 1) | (Kind::Pair, 2)) {
                return Err(format!("{}: {field} is missing or of a wrong type", entry.name));
            }
            let setters = schedules.iter().enumerate();
            self.setters.extend(setters.map(|(i, s)| Setter { link, at: at + i, schedule: s.clone(), timer }));
        }
        Ok(())
    }

    /// How many step counts there are: one for each link, then one for each timer, then the other numbers of the links.
    #[must_use]
    pub fn counters(&self) -> usize {
        self.counters
    }

    /// Which of the step counts is that of a timer.
    #[must_use]
    pub fn counter_of(&self, timer: usize) -> usize {
        self.links.len() + timer
    }

    /// The step counts of the timers.
    #[must_use]
    pub fn timers<'a>(&self, counts: &'a [u64]) -> &'a [u64] {
        &counts[self.links.len()..self.links.len() + self.timers.len()]
    }

    /// Whether hyper-parameters change with the step.
    #[must_use]
    pub fn is_scheduled(&self) -> bool {
        !self.timers.is_empty()
    }

    /// Whether steps differ from each other: what neither counts nor is scheduled does the same at each.
    #[must_use]
    pub fn has_steps(&self) -> bool {
        self.is_scheduled() || self.links.iter().any(|link| link.kernel.shape().counter.is_some())
    }

    /// Whether a link decides where the parameter lands.
    #[must_use]
    pub fn lands(&self) -> bool {
        self.landing < self.links.len()
    }

    /// Whether a link must know whole gradients.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.links.iter().any(|link| link.asks())
    }

    /// The hyper-parameters of link `i` at the next step.
    #[must_use]
    pub fn hyper(&self, i: usize, counts: &[u64]) -> Hyper {
        let mut hyper = self.links[i].hyper;
        for setter in self.setters.iter().filter(|setter| setter.link == i) {
            hyper[setter.at] = setter.schedule.at(counts[self.counter_of(setter.timer)]).to_bits();
        }
        hyper
    }

    /// How far the state of link `i` has come.
    #[must_use]
    pub fn at(&self, i: usize, counts: &[u64]) -> At {
        let mut at = At { t: counts[i].saturating_add(1), numbers: [0; NUMBERS] };
        let numbers = &counts[self.links[i].numbers.clone()];
        at.numbers[..numbers.len()].copy_from_slice(numbers);
        at
    }

    /// Why the step of a parameter of type `dtype` cannot use a hyper-parameter, if it cannot: one as the rule was given it, or
    /// with `counts` one as it is at the next step.
    #[must_use]
    pub fn refusal(&self, dtype: DType, counts: Option<&[u64]>) -> Option<String> {
        let compute = self.working(dtype).compute();
        self.links.iter().enumerate().find_map(|(i, link)| {
            let hyper = counts.map_or(link.hyper, |counts| self.hyper(i, counts));
            link.entry.fields.iter().find_map(|&(field, _)| {
                let (name, value) = (link.entry.name, link.entry.value(&hyper, field)?);
                let stored =
                    if link.kernel.shape().stores { held::not_stored(name, field, value, dtype) } else { None };
                let why = stored.or_else(|| held::refusal(name, field, value, compute))?;
                let (place, kind) = link.entry.place(field)?;
                let numbers = place..place + if kind == Kind::Pair { 2 } else { 1 };
                let by = self.setters.iter().find(|s| s.link == i && numbers.contains(&s.at)).zip(counts);
                Some(by.map_or(why.clone(), |(s, counts)| {
                    format!("{why}, by its schedule at step {}", counts[self.counter_of(s.timer)])
                }))
            })
        })
    }

    /// Whether the states of two rules lie alike, so that either can step it.
    #[must_use]
    pub fn lies_like(&self, other: &Self) -> bool {
        let states = |program: &Self| -> Vec<_> {
            let shapes = program.links.iter().map(|link| (link.own, link.kernel.shape()));
            shapes.map(|(own, shape)| (own, shape.slots, shape.counter, shape.numbers)).collect()
        };
        self.master == other.master && self.form == other.form && states(self) == states(other)
    }

    /// The type in which a parameter of type `dtype` is kept and stepped: the master's, if there is one.
    #[must_use]
    pub fn working(&self, dtype: DType) -> DType {
        match self.master {
            None => dtype,
            Some(DType::F64) if dtype.is_complex() => DType::C128,
            Some(_) if dtype.is_complex() => DType::C64,
            Some(master) => master,
        }
    }

    /// The types of all state arrays for a parameter of type `dtype`, and what they start as: the master first, then each
    /// link's.
    #[must_use]
    pub fn slots(&self, dtype: DType) -> Vec<(DType, Start)> {
        let working = self.working(dtype);
        let compute = working.compute();
        let master = self.master.map(|_| (working, Start::Parameter));
        let moments = self.links.iter().flat_map(|link| {
            let initial = link.kernel.initial(&link.hyper);
            link.kernel.shape().slots.iter().zip(initial).map(move |(slot, initial)| {
                let start = if slot.parameter { Start::Parameter } else { Start::Value(initial) };
                (if slot.real { compute.real() } else { compute.dtype() }, start)
            })
        });
        master.into_iter().chain(moments).collect()
    }

    /// The link whose loop alone has a state array, for each of [`Self::slots`]: `None` of the master, which all loops read.
    pub fn loops(&self) -> impl Iterator<Item = Option<usize>> {
        let master = self.master.map(|_| None);
        let moments = self.links.iter().enumerate().flat_map(|(i, link)| link.slots.clone().map(move |_| Some(i)));
        master.into_iter().chain(moments)
    }

    /// The state arrays of some links in a row.
    #[must_use]
    pub fn slots_of(&self, links: &Range<usize>) -> Range<usize> {
        let start = |i: usize| self.links.get(i).map_or(self.arrays, |link| link.slots.start);
        start(links.start)..start(links.end)
    }

    /// The parts of the state of link `i`, with their names, in the order in which they are shown. A link without any has no
    /// state.
    pub fn parts(&self, i: usize) -> impl Iterator<Item = (&'static str, Part)> + Clone {
        let (link, shape) = (&self.links[i], self.links[i].kernel.shape());
        let arrays = shape.slots.iter().zip(link.slots.clone()).map(|(slot, at)| (slot.name, Part::Array(at)));
        let count = shape.counter.map(|name| (name, Part::Count(i)));
        let numbers = shape.numbers.iter().zip(link.numbers.clone()).filter(|(number, _)| !number.name.is_empty());
        let numbers =
            numbers.map(|(number, at)| (number.name, if number.float { Part::Float(at) } else { Part::Count(at) }));
        arrays.chain(count).chain(numbers)
    }

    /// For each link that has one, the number that says which of its group's steps was its last one.
    pub fn stamps<'a>(&'a self, counts: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
        self.stamp_places().map(|at| counts[at])
    }

    /// Which of the counts those are.
    pub fn stamp_places(&self) -> impl Iterator<Item = usize> + '_ {
        self.links.iter().filter_map(|link| Some(link.numbers.start + link.stamp()?))
    }

    /// How many links a step reaches at these counts, and whether it reaches the parameter.
    #[must_use]
    pub fn reach(&self, counts: &[u64]) -> (usize, bool) {
        if !self.collects {
            return (self.links.len(), true);
        }
        let holds = |(i, link): (usize, &Link)| !link.kernel.emits(&self.hyper_at(i, counts), counts[i] + 1);
        match self.links.iter().enumerate().position(holds) {
            Some(i) => (i + 1, false),
            None => (self.links.len(), true),
        }
    }

    /// As [`Self::hyper`], without a copy's cost where nothing is scheduled.
    #[inline]
    fn hyper_at(&self, i: usize, counts: &[u64]) -> Hyper {
        if self.setters.is_empty() { self.links[i].hyper } else { self.hyper(i, counts) }
    }

    /// The segment of the first `reach` links that starts at `start`: up to the next link that must know whole gradients.
    #[must_use]
    pub fn segment(&self, start: usize, reach: usize) -> Range<usize> {
        start..(start + 1..reach).find(|&i| self.links[i].asks()).unwrap_or(reach)
    }

    /// The step counts after a step that reaches the first `reach` links and, if it `steps`, the parameter. Some of the links
    /// have asked for `facts`. A timer counts what its links pass on.
    pub fn advance<'f>(
        &self,
        counts: &mut [u64],
        reach: usize,
        steps: bool,
        facts: impl Fn(usize) -> Option<&'f Facts>,
    ) {
        if self.is_scheduled() {
            let passed = if steps { reach } else { reach.saturating_sub(1) };
            for i in (0..reach).rev() {
                self.advance_link(counts, i, facts(i)); // before the timers, by which its hyper-parameters go
            }
            for (timer, count) in self.timers.iter().zip(&mut counts[self.links.len()..]) {
                *count += u64::from(reach > 0 && timer.end <= passed);
            }
        } else {
            (0..reach).for_each(|i| self.advance_link(counts, i, facts(i)));
        }
    }

    /// The step counts of a link after a step.
    #[inline]
    pub fn advance_link(&self, counts: &mut [u64], i: usize, facts: Option<&Facts>) {
        if self.links[i].is_plain {
            counts[i] = counts[i].saturating_add(1);
            return;
        }
        let at = self.at(i, counts);
        let at = self.links[i].kernel.advance(&self.hyper_at(i, counts), at, facts.unwrap_or(&Facts::NONE));
        counts[i] = at.t;
        for (count, number) in counts[self.links[i].numbers.clone()].iter_mut().zip(at.numbers) {
            *count = number;
        }
    }

    /// The scalars of link `i` with these hyper-parameters at its next step.
    #[must_use]
    pub fn scalars(&self, i: usize, hyper: &Hyper, counts: &[u64], rounding: Rounding) -> Scalars {
        self.links[i].kernel.prepare(hyper, self.at(i, counts), rounding)
    }
}

impl Link {
    /// Whether it must know whole gradients.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// Which of its numbers says which of its group's steps was the last one.
    #[must_use]
    pub fn stamp(&self) -> Option<usize> {
        self.kernel.shape().numbers.iter().position(|number| number.name.is_empty())
    }

    /// Its name and, if the user gave it one, that: `ClipGlobalNorm[decoder]`.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.entry.name;
        if self.label.is_empty() { name.into() } else { format!("{name}[{}]", self.label) }
    }

    /// Its name and hyper-parameters: `ClipGlobalNorm(omega=1, throw=true)`.
    #[must_use]
    pub fn described(&self, hyper: &Hyper) -> String {
        let value = |&(field, _): &(&str, Kind)| match self.entry.value(hyper, field) {
            Some(Value::Float(x)) => format!("{field}={x}"),
            Some(Value::Count(u64::MAX)) => format!("{field}=None"),
            Some(Value::Count(n)) => format!("{field}={n}"),
            Some(Value::Flag(flag)) => format!("{field}={}", if flag { "True" } else { "False" }),
            Some(Value::Pair([a, b])) => format!("{field}=({a}, {b})"),
            None => field.into(),
        };
        let fields: Vec<String> = self.entry.fields.iter().map(value).collect();
        format!("{}({})", self.name(), fields.join(", "))
    }

    /// Whether it is equal to another one with these hyper-parameters, so that both belong to one group.
    #[must_use]
    pub fn equals(&self, hyper: &Hyper, other: &Self, others: &Hyper) -> bool {
        self.entry.name == other.entry.name && hyper == others && self.label == other.label
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, values: &[(&str, Value)]) -> Spec {
        Spec::Rule(name.into(), values.iter().map(|&(n, v)| (n.into(), v)).collect(), String::new())
    }

    fn falling(rule: Spec) -> Spec {
        let eta = Schedule::Polynomial { start: 1.0, steps: 4, end: 0.0, power: 1.0 };
        Spec::Scheduled(Box::new(rule), Some(vec![("eta".into(), vec![eta])]))
    }

    #[test]
    fn hyper_parameters_are_those_of_the_step() {
        let descent = || rule("Descent", &[("eta", Value::Float(1.0))]);
        let accumulate = rule("AccumGrad", &[("n", Value::Count(2))]);
        let spec = Spec::Chain(vec![falling(descent()), falling(Spec::Chain(vec![accumulate, descent()]))]);
        let program = Program::new(&spec).unwrap();
        let mut counts = vec![0; program.counters()];
        assert_eq!(counts.len(), 5);
        for taken in 0..7 {
            let t = taken / 2;
            assert_eq!(program.timers(&counts), [taken, t]);
            let rounding = Rounding::of(Compute::F64);
            let eta = |i: usize| program.scalars(i, &program.hyper(i, &counts), &counts, rounding)[0];
            let expected = |t: u64| 1.0 - t.min(4) as f64 / 4.0;
            assert_eq!((eta(0), eta(2)), (expected(taken), expected(t)));
            let (reach, steps) = program.reach(&counts);
            program.advance(&mut counts, reach, steps, |_| None);
        }
    }

    #[test]
    fn behind_a_landing_rule_come_only_such() {
        let ema = || rule("Ema", &[("decay", Value::Float(0.9)), ("warmup", Value::Flag(false))]);
        let descent = || rule("Descent", &[("eta", Value::Float(1.0))]);
        assert_eq!(Program::new(&Spec::Chain(vec![descent(), ema(), ema()])).unwrap().landing, 1);
        assert!(Program::new(&Spec::Chain(vec![ema(), descent()])).is_err());
    }
}
