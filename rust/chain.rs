//! Rules in sequence: a rule as the user wrote it, nested or not, becomes a flat list of links and a form that says how
//! their states are shown.

use crate::dtype::{Compute, DType};
use crate::held;
use crate::rule::{Borrower, Entry, Fields, Kernel, Value};
use crate::rules::RULES;
use crate::schedules::Schedule;
use std::cell::RefCell;
use std::ops::Range;

/// A rule as Python describes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// A rule of the registry, with its hyper-parameters.
    Rule(String, Vec<(String, Value)>),
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

/// What makes a link.
struct Recipe {
    entry: &'static Entry,
    values: Vec<(String, Value)>,
}

impl Recipe {
    fn value(&self, field: &str) -> Option<Value> {
        self.values.iter().find(|(n, _)| n == field).map(|&(_, v)| v)
    }

    fn build(&self, fields: &Fields) -> Result<Box<dyn Kernel>, String> {
        (self.entry.build)(fields).map_err(|field| self.lacks(field))
    }

    fn lacks(&self, field: &str) -> String {
        format!("{}: {field} is missing or of a wrong type", self.entry.name)
    }
}

/// A `Scheduled`: it has a step count of its own, behind those of the links.
struct Timer {
    /// The links inside.
    links: Range<usize>,
    /// Their scheduled fields.
    fields: Followed,
}

/// A compiled rule.
pub struct Program {
    /// The links in the order in which the gradient passes them.
    pub links: Vec<Box<dyn Kernel>>,
    /// Their names.
    pub names: Vec<&'static str>,
    /// See [`Form`].
    pub form: Form,
    /// The type of the master copy, if the rule keeps one.
    pub master: Option<DType>,
    /// Whether a schedule is a function in Python, so that [`Program::at`] does not know it.
    pub asks_python: bool,
    /// Whether the rule in Python holds numbers alone, and leads to no object of the user's; for its maker to say.
    pub plain: bool,
    recipes: Vec<Recipe>,
    timers: Vec<Timer>,
}

impl Program {
    /// Compiles `spec`; `Err` says what the registry does not know.
    pub fn new(spec: &Spec) -> Result<Self, String> {
        let mut program = Self::empty();
        program.form = program.add(spec)?;
        Ok(program)
    }

    fn empty() -> Self {
        Self {
            links: Vec::new(),
            names: Vec::new(),
            form: Form::Chain(Vec::new()),
            master: None,
            asks_python: false,
            plain: false,
            recipes: Vec::new(),
            timers: Vec::new(),
        }
    }

    fn add(&mut self, spec: &Spec) -> Result<Form, String> {
        match spec {
            Spec::Rule(name, values) => {
                let entry = RULES.iter().find(|e| e.name == name).ok_or_else(|| format!("no rule {name}"))?;
                let recipe = Recipe { entry, values: values.clone() };
                self.links.push(recipe.build(&|field| recipe.value(field))?);
                self.names.push(entry.name);
                self.recipes.push(recipe);
                Ok(Form::Link(self.links.len() - 1))
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
                self.timers.push(Timer { links: 0..0, fields: fields.clone().unwrap_or_default() });
                let form = self.add(rule)?;
                self.timers[timer].links = first..self.links.len();
                Ok(Form::Scheduled(timer, Box::new(form)))
            }
        }
    }

    /// How many step counts there are: one for each link, then one for each timer.
    #[must_use]
    pub fn counters(&self) -> usize {
        self.links.len() + self.timers.len()
    }

    /// Which of the step counts is that of a timer.
    #[must_use]
    pub fn counter_of(&self, timer: usize) -> usize {
        self.links.len() + timer
    }

    /// Whether hyper-parameters change with the step: then [`Program::at`] makes the program that is to be run, and
    /// [`Program::link`] a link of it.
    #[must_use]
    pub fn is_scheduled(&self) -> bool {
        !self.timers.is_empty()
    }

    /// The program of the next step: the same links with the hyper-parameters of that step, and nothing scheduled.
    pub fn at(&self, counts: &[u64]) -> Result<Self, String> {
        let mut program = Self { names: self.names.clone(), master: self.master, ..Self::empty() };
        for (i, recipe) in self.recipes.iter().enumerate() {
            program.links.push(recipe.build(&|field| self.value(i, field, counts).map(|(value, _)| value))?);
        }
        Ok(program)
    }

    /// Lends link `i` as it is at the next step, which is in `compute`; `Err` says which value of a schedule that type cannot
    /// hold.
    pub fn link(&self, i: usize, counts: &[u64], compute: Compute, to: &mut Borrower) -> Result<(), String> {
        if !self.is_scheduled() {
            to(self.links[i].as_ref());
            return Ok(());
        }
        let (recipe, refused) = (&self.recipes[i], RefCell::new(None));
        let value = |field: &str| {
            let (value, step) = self.value(i, field, counts)?;
            if let Some(why) = refusal(recipe.entry.name, field, value, step, compute) {
                refused.replace(Some(why));
            }
            Some(value)
        };
        (recipe.entry.lend)(&value, to).map_err(|field| recipe.lacks(field))?;
        refused.into_inner().map_or(Ok(()), Err)
    }

    /// Why a step in `compute` cannot use a hyper-parameter, if it cannot: one as the rule was given it, or with `counts` one
    /// as it is at the next step.
    #[must_use]
    pub fn refusal(&self, compute: Compute, counts: Option<&[u64]>) -> Option<String> {
        self.recipes.iter().enumerate().find_map(|(i, recipe)| {
            recipe.values.iter().find_map(|(field, given)| {
                let (value, step) = counts.and_then(|c| self.value(i, field, c)).unwrap_or((*given, None));
                refusal(recipe.entry.name, field, value, step, compute)
            })
        })
    }

    /// The value of a field of link `i` at the next step, and which step of its schedule that is, if it has one.
    fn value(&self, i: usize, field: &str, counts: &[u64]) -> Option<(Value, Option<u64>)> {
        let timers = self.timers.iter().zip(&counts[self.links.len()..]);
        let mut own = timers.filter(|(timer, _)| timer.links.contains(&i));
        let scheduled = own.find_map(|(timer, &t)| timer.value(field, t).map(|value| (value, Some(t))));
        scheduled.or_else(|| self.recipes[i].value(field).map(|value| (value, None)))
    }

    /// Whether the state of one rule lies as that of the other, so that either can step it.
    #[must_use]
    pub fn lies_like(&self, other: &Self) -> bool {
        let states = |program: &Self| -> Vec<_> { program.links.iter().map(|l| (l.slots(), l.counter())).collect() };
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

    /// The types and initial values of all state arrays for a parameter of type `dtype`: the master first (without an
    /// initial value, since it starts as the parameter), then each link's.
    #[must_use]
    pub fn slots(&self, dtype: DType) -> Vec<(DType, Option<f64>)> {
        let working = self.working(dtype);
        let compute = working.compute();
        let master = self.master.map(|_| (working, None));
        let moments = self.links.iter().flat_map(|link| {
            link.slots()
                .iter()
                .zip(link.initial())
                .map(move |(slot, initial)| (if slot.real { compute.real() } else { compute.dtype() }, Some(initial)))
        });
        master.into_iter().chain(moments).collect()
    }

    /// The link whose loop alone has a state array, for each of [`Self::slots`]: `None` of the master, which all loops read.
    pub fn loops(&self) -> impl Iterator<Item = Option<usize>> {
        let master = self.master.map(|_| None);
        let moments = self.links.iter().enumerate().flat_map(|(i, link)| link.slots().iter().map(move |_| Some(i)));
        master.into_iter().chain(moments)
    }

    /// Where in [`Program::slots`] the state arrays of link `i` stand.
    #[must_use]
    pub fn slots_of(&self, i: usize) -> Range<usize> {
        let before: usize = self.links[..i].iter().map(|l| l.slots().len()).sum();
        let start = usize::from(self.master.is_some()) + before;
        start..start + self.links[i].slots().len()
    }

    /// How many links take part in the next step, and whether it reaches the parameter.
    #[must_use]
    pub fn reach(&self, counts: &[u64]) -> (usize, bool) {
        match self.links.iter().zip(counts).position(|(link, &t)| !link.emits(t + 1)) {
            Some(i) => (i + 1, false),
            None => (self.links.len(), true),
        }
    }

    /// The segment of the first `reach` links that starts at `start`: up to the next link that must know the whole
    /// gradient.
    #[must_use]
    pub fn segment(&self, start: usize, reach: usize) -> Range<usize> {
        start..(start + 1..reach).find(|&i| self.links[i].reduction().is_some()).unwrap_or(reach)
    }

    /// The step counts after a step that reaches the first `reach` links. A timer counts what its links pass on.
    pub fn advance(&self, counts: &mut [u64], reach: usize) {
        let passed = if self.timers.is_empty() || self.reach(counts).1 { reach } else { reach.saturating_sub(1) };
        for (timer, count) in self.timers.iter().zip(&mut counts[self.links.len()..]) {
            *count += u64::from(reach > 0 && timer.links.end <= passed);
        }
        for (count, link) in counts[..reach].iter_mut().zip(&self.links) {
            *count = link.advance(*count + 1);
        }
    }
}

/// Why a step in `compute` cannot use a value, which may be that of a schedule at `step`.
fn refusal(rule: &str, field: &str, value: Value, step: Option<u64>, compute: Compute) -> Option<String> {
    let why = held::refusal(rule, field, value, compute)?;
    Some(if let Some(step) = step { format!("{why}, by its schedule at step {step}") } else { why })
}

impl Timer {
    /// The value of a scheduled field at `step`.
    fn value(&self, field: &str, step: u64) -> Option<Value> {
        let (_, schedules) = self.fields.iter().find(|(name, _)| name == field)?;
        match &schedules[..] {
            [one] => Some(Value::Float(one.at(step))),
            [first, second] => Some(Value::Pair([first.at(step), second.at(step)])),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, values: &[(&str, Value)]) -> Spec {
        Spec::Rule(name.into(), values.iter().map(|&(n, v)| (n.into(), v)).collect())
    }

    fn falling(rule: Spec) -> Spec {
        let eta = Schedule::Polynomial { start: 1.0, steps: 4, end: 0.0, power: 1.0 };
        Spec::Scheduled(Box::new(rule), Some(vec![("eta".into(), vec![eta])]))
    }

    #[test]
    fn the_program_of_a_step_has_the_values_of_that_step() {
        let descent = || rule("Descent", &[("eta", Value::Float(1.0))]);
        let accumulate = rule("AccumGrad", &[("n", Value::Count(2))]);
        let spec = Spec::Chain(vec![falling(descent()), falling(Spec::Chain(vec![accumulate, descent()]))]);
        let program = Program::new(&spec).unwrap();
        let mut counts = vec![0; program.counters()];
        assert_eq!(counts.len(), 5);
        for taken in 0..7 {
            let t = taken / 2;
            assert_eq!(counts[3..], [taken, t]);
            let now = program.at(&counts).unwrap();
            assert!(program.is_scheduled() && !now.is_scheduled());
            let eta = |i: usize| {
                let rounding = crate::rule::Rounding::of(Compute::F64);
                let mut lent = None;
                program.link(i, &counts, Compute::F64, &mut |link| lent = Some(link.prepare(1, rounding))).unwrap();
                let made = now.links[i].prepare(1, rounding);
                assert_eq!(lent, Some(made));
                made[0]
            };
            let expected = |t: u64| 1.0 - t.min(4) as f64 / 4.0;
            assert_eq!((eta(0), eta(2)), (expected(taken), expected(t)));
            let reach = program.reach(&counts).0;
            program.advance(&mut counts, reach);
        }
    }
}
