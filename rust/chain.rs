//! Rules in sequence: a rule as the user wrote it, nested or not, becomes a flat list of links and a form that says how
//! their states are shown.

use crate::dtype::DType;
use crate::rule::{Kernel, Value};
use crate::rules::RULES;
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
}

/// A compiled rule.
pub struct Program {
    /// The links in the order in which the gradient passes them.
    pub links: Vec<Box<dyn Kernel>>,
    /// Their names.
    pub names: Vec<String>,
    /// See [`Form`].
    pub form: Form,
    /// The type of the master copy, if the rule keeps one.
    pub master: Option<DType>,
}

impl Program {
    /// Compiles `spec`; `Err` says what the registry does not know.
    pub fn new(spec: &Spec) -> Result<Self, String> {
        let mut program = Self { links: Vec::new(), names: Vec::new(), form: Form::Chain(Vec::new()), master: None };
        program.form = program.add(spec)?;
        Ok(program)
    }

    fn add(&mut self, spec: &Spec) -> Result<Form, String> {
        match spec {
            Spec::Rule(name, values) => {
                let entry = RULES.iter().find(|e| e.name == name).ok_or_else(|| format!("no rule {name}"))?;
                let look_up = |field: &'static str| values.iter().find(|(n, _)| n == field).map(|&(_, v)| v);
                let link = (entry.build)(&look_up)
                    .map_err(|field| format!("{name}: {field} is missing or of a wrong type"))?;
                self.links.push(link);
                self.names.push(name.clone());
                Ok(Form::Link(self.links.len() - 1))
            }
            Spec::Chain(rules) => Ok(Form::Chain(rules.iter().map(|r| self.add(r)).collect::<Result<_, _>>()?)),
            Spec::Mixed(rule, dtype) => {
                self.master = Some(*dtype);
                Ok(Form::Mixed(Box::new(self.add(rule)?)))
            }
        }
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

    /// The step counts after a step that reaches the first `reach` links.
    pub fn advance(&self, counts: &mut [u64], reach: usize) {
        for (count, link) in counts[..reach].iter_mut().zip(&self.links) {
            *count = link.advance(*count + 1);
        }
    }
}
