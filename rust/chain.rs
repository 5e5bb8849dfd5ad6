//! Rules in sequence: a rule as the user wrote it, nested or not, becomes a flat list of links and a form that says how
//! their states are shown.

use crate::dtype::DType;
use crate::rule::{Entry, Kernel, Value};
use crate::rules::RULES;
use crate::schedules::Schedule;
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
    /// `Scheduled`: the schedules of fields, one or two each; `None` where a function in Python is among them.
    Scheduled(Box<Spec>, Option<Vec<(String, Vec<Schedule>)>>),
}

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
    fn build(&self) -> Result<Box<dyn Kernel>, String> {
        let look_up = |field: &'static str| self.values.iter().find(|(n, _)| n == field).map(|&(_, v)| v);
        (self.entry.build)(&look_up)
            .map_err(|field| format!("{}: {field} is missing or of a wrong type", self.entry.name))
    }
}

/// A `Scheduled`: it has a step count of its own, behind those of the links.
struct Timer {
    /// The links inside.
    links: Range<usize>,
    /// Their scheduled fields.
    fields: Vec<(String, Vec<Schedule>)>,
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
            recipes: Vec::new(),
            timers: Vec::new(),
        }
    }

    fn add(&mut self, spec: &Spec) -> Result<Form, String> {
        match spec {
            Spec::Rule(name, values) => {
                let entry = RULES.iter().find(|e| e.name == name).ok_or_else(|| format!("no rule {name}"))?;
                let recipe = Recipe { entry, values: values.clone() };
                self.links.push(recipe.build()?);
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

    /// Whether hyper-parameters change with the step: then [`Program::at`] makes the program that is to be run.
    #[must_use]
    pub fn is_scheduled(&self) -> bool {
        !self.timers.is_empty()
    }

    /// The program of the next step: the same links with the hyper-parameters of that step, and nothing scheduled.
    pub fn at(&self, counts: &[u64]) -> Result<Self, String> {
        let mut program = Self { names: self.names.clone(), master: self.master, ..Self::empty() };
        for (i, recipe) in self.recipes.iter().enumerate() {
            let mut recipe = Recipe { entry: recipe.entry, values: recipe.values.clone() };
            for (t, timer) in self.timers.iter().enumerate().filter(|(_, timer)| timer.links.contains(&i)) {
                timer.set(&mut recipe.values, counts[self.counter_of(t)]);
            }
            program.links.push(recipe.build()?);
        }
        Ok(program)
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

impl Timer {
    /// Puts the values of `step` in the place of those in `values` that have the same name.
    fn set(&self, values: &mut [(String, Value)], step: u64) {
        for (name, schedules) in &self.fields {
            let Some((_, value)) = values.iter_mut().find(|(n, _)| n == name) else { continue };
            *value = match &schedules[..] {
                [one] => Value::Float(one.at(step)),
                [first, second] => Value::Pair([first.at(step), second.at(step)]),
                _ => continue,
            };
        }
    }
}
