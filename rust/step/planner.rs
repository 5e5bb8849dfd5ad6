//! The planner: see [`super`].

use smallvec::SmallVec;
use std::ops::Range;

use super::drive::{Copy, Plan, traffic};
use super::group::{Asked, Question, StepGroup};
use super::job::{Job, Sink, Source, State, Tables};
use super::norms::{Measure, Norms, first_not_finite};
use super::scratch::Scratch;
use super::walker::{DONE, Elsewhere, Progress, Staged, Walker};
use super::{Goal, Outcome, Parameter, Reason, Refused, Skip};
use crate::loops::norm::Norm;
use crate::memory::reserve::{OutOfMemory, Put, Reserve};
use crate::program::contract::{Asks, Facts, Scalars, Verdict};

/// Among the groups that were met last, a parameter's is looked for: a model has few rules, which may take turns.
const NEAR: usize = 4;

/// Plans steps. It can be kept: then its lists are used again.
#[derive(Default)]
pub struct Planner<'a> {
    jobs: SmallVec<[Job<'a>; 2]>,
    scalars: SmallVec<[Scalars; 4]>,
    states: SmallVec<[State; 4]>,
    copies: SmallVec<[Copy; 4]>,
    groups: SmallVec<[StepGroup<'a>; 1]>,
    /// The first parameter of each group.
    firsts: SmallVec<[usize; 4]>,
    /// What the step was to each parameter.
    pub outcomes: SmallVec<[Outcome; 4]>,
    /// What was skipped.
    pub skips: Vec<Skip>,
    /// Bytes read and written by the last phase.
    traffic: usize,
    asked: Asked<'a>,
    walkers: Vec<Walker>,
    /// What is known of gradients whose rules have asked, where it goes into their states: by parameter and link.
    facts: Vec<(usize, usize, Facts)>,
    staged: Vec<Staged>,
    /// The loops of a phase that is not the last one, and their state arrays.
    phase: (Vec<Job<'a>>, Vec<State>),
    measures: Vec<Measure>,
    found: Vec<f64>,
    norms: Norms,
    scratch: Scratch,
}

impl<'a> Planner<'a> {
    /// Plans the step of `n` parameters, and runs all of its phases but the last one.
    ///
    /// # Safety
    /// The pointers of the parameters are aligned and valid for their elements; no two places that are written overlap each
    /// other or what is read, except that a goal may be its parameter, a state's `to` its `from`, and a direction the
    /// gradient, of the same parameter; no other thread writes to any of it until the last phase has run.
    pub unsafe fn plan<P: Parameter<'a>>(
        &mut self,
        n: usize,
        parameter: impl Fn(usize) -> P,
    ) -> Result<Progress, Refused> {
        self.clear();
        self.jobs.make_room(n)?;
        self.outcomes.make_room(n)?;
        for i in 0..n {
            self.add(i, &parameter(i))?;
        }
        // SAFETY: the caller's promise.
        unsafe { self.go_on(parameter) }
    }

    /// Goes on with a plan, as far as it can.
    ///
    /// # Safety
    /// As for [`Self::plan`]; the parameters lie where they did.
    #[inline]
    pub unsafe fn go_on<P: Parameter<'a>>(&mut self, parameter: impl Fn(usize) -> P) -> Result<Progress, Refused> {
        self.walkers.retain(|walker| walker.at != DONE);
        while !self.walkers.is_empty() {
            if !self.find_ready(&parameter)? {
                return Ok(Progress::Elsewhere);
            }
            // SAFETY: the caller's promise.
            unsafe { self.run_phase(&parameter)? };
        }
        self.settle()?;
        self.traffic = traffic(&self.jobs, self.tables(), &self.copies);
        Ok(Progress::Ready)
    }

    /// What the plan waits for.
    pub fn calls(&self) -> impl Iterator<Item = Elsewhere> {
        let waits = |(_, walker): &(usize, &Walker)| {
            let question = self.asked.question(&self.groups[walker.group], walker.at);
            !walker.answered && question.is_some_and(|question| question.asks == Asks::Elsewhere)
        };
        let is_scratch = |walker: &Walker| walker.scratch.is_some_and(|at| std::ptr::eq(at, walker.source.ptr));
        let call = move |(number, walker): (usize, &Walker)| Elsewhere {
            number,
            parameter: walker.parameter,
            link: walker.at,
            source: (walker.is_made || is_scratch(walker)).then_some(walker.source),
        };
        self.walkers.iter().enumerate().filter(waits).map(call)
    }

    /// What was made elsewhere for a call; `None` where the step of its parameter ends there.
    pub fn answer<P: Parameter<'a>>(
        &mut self,
        call: &Elsewhere,
        p: &P,
        source: Option<Source>,
    ) -> Result<(), OutOfMemory> {
        let walker = &mut self.walkers[call.number];
        if let Some(source) = source {
            (walker.source, walker.norm, walker.answered, walker.is_made) = (source, None, true, true);
            return Ok(());
        }
        let group = walker.group;
        walker.at = DONE;
        let outcome = &mut self.outcomes[call.parameter];
        let reach = outcome.reach.replace(call.link as u32 + 1).unwrap_or(0) as usize;
        if std::mem::take(&mut outcome.steps) {
            self.carry_x(p)?;
            self.carry(p, 0..p.program().slots_of(&(0..0)).start)?;
        }
        self.leave_wholes(group, call.link);
        self.carry(p, p.program().slots_of(&(call.link + 1..reach)))
    }

    /// Gives the plan the scalars of the next step of the same parameters; false if that takes another plan.
    pub fn renew<P: Parameter<'a>>(&mut self, parameter: impl Fn(usize) -> P) -> Result<bool, Refused> {
        let Self { groups, firsts, scalars, asked, .. } = self;
        for (group, &i) in groups.iter().zip(&*firsts) {
            if !group.questions.is_empty() || !group.renew(i, &parameter(i), &mut asked.counts, scalars)? {
                return Ok(false);
            }
        }
        Ok(!self.groups.is_empty())
    }

    /// Runs the last phase, which nothing can stop.
    ///
    /// # Safety
    /// As for [`Self::plan`].
    pub unsafe fn run(&self) {
        let plan = Plan { jobs: &self.jobs, tables: self.tables(), copies: &self.copies, traffic: self.traffic };
        // SAFETY: the caller's promise.
        unsafe { plan.run() };
    }

    /// Whether a rule has asked about gradients.
    pub fn has_asked(&self) -> bool {
        !self.facts.is_empty()
    }

    /// Brings the counts of a parameter to where they are after the step. Parameters come in order; `known`, 0 at first, is
    /// where among the facts those of the next one stand.
    pub fn advance<P: Parameter<'a>>(&self, i: usize, p: &P, counts: &mut [u64], known: &mut usize) {
        let outcome = self.outcomes[i];
        let start = *known;
        *known += self.facts[start..].iter().take_while(|&&(parameter, ..)| parameter <= i).count();
        let own = &self.facts[start..*known];
        let facts = |link: usize| own.iter().find(|&&(_, at, _)| at == link).map(|(.., facts)| facts);
        let program = p.program();
        match (outcome.skipped.map(|at| at as usize), outcome.reach) {
            (Some(skipped), _) => {
                for link in (0..skipped).filter(|&l| program.links[l].kernel.shape().collects) {
                    program.advance_link(counts, link, None);
                }
                program.advance_link(counts, skipped, facts(skipped));
            }
            (None, Some(reach)) => program.advance(counts, reach as usize, outcome.steps, facts),
            (None, None) => {}
        }
    }

    /// The loops of the last phase and their scalars, where there is nothing else in it and it is small.
    pub fn loops(&self, bytes: usize) -> Option<(&[Job<'a>], Tables<'_>)> {
        (self.traffic < bytes && self.copies.is_empty()).then(|| (&self.jobs[..], self.tables()))
    }

    /// The scalars of all links.
    pub fn scalars(&self) -> &[Scalars] {
        &self.scalars
    }

    fn tables(&self) -> Tables<'_> {
        Tables { scalars: &self.scalars, states: &self.states }
    }

    fn clear(&mut self) {
        self.jobs.clear();
        self.scalars.clear();
        self.states.clear();
        self.copies.clear();
        self.groups.clear();
        self.firsts.clear();
        self.outcomes.clear();
        self.skips.clear();
        self.asked.clear();
        self.walkers.clear();
        self.facts.clear();
        self.staged.clear();
        self.scratch.clear();
    }

    /// Adds a parameter; without a gradient its values are carried over.
    #[inline]
    fn add<P: Parameter<'a>>(&mut self, i: usize, p: &P) -> Result<(), Refused> {
        let program = p.program();
        if program.is_stamped {
            self.asked.stamp = program.stamps(p.counts()).fold(self.asked.stamp, u64::max);
        }
        let Some(source) = p.gradient() else {
            self.outcomes.push(Outcome::default());
            self.carry_x(p)?;
            return Ok(self.carry(p, 0..program.slots_of(&(0..program.links.len())).end)?);
        };
        let group = self.group(i, p)?;
        if !self.groups[group].is_checked
            && let Some(reason) = self.groups[group].check(p)
        {
            return Err(Refused::by(i, Reason::Value(reason)));
        }
        let StepGroup { reach, steps, ref slots, scalars, arrays, .. } = self.groups[group];
        let (slots, asks) = (slots.clone(), !self.groups[group].questions.is_empty());
        self.outcomes.push(Outcome { reach: Some(reach as u32), steps, skipped: None });
        self.carry(p, slots.end..arrays)?;
        if !steps {
            self.carry_x(p)?;
            self.carry(p, 0..slots.start)?;
        }
        if !asks {
            return Ok(self.last(p, group, 0..reach, slots, source, scalars)?);
        }
        let Asked { questions, wholes, .. } = &mut self.asked;
        for question in &questions[self.groups[group].questions.clone()] {
            if let Some(whole) = question.whole {
                wholes[whole].members += 1;
            }
        }
        let mut walker = Walker {
            parameter: i,
            group,
            at: 0,
            source,
            norm: None,
            measure: None,
            ready: false,
            answered: false,
            is_made: false,
            scratch: None,
        };
        self.arrive(&mut walker);
        Ok(self.walkers.put(walker)?)
    }

    /// The group of a parameter.
    #[inline]
    fn group<P: Parameter<'a>>(&mut self, i: usize, p: &P) -> Result<usize, OutOfMemory> {
        let near = self.groups.len().saturating_sub(NEAR);
        if let Some(known) = self.groups[near..].iter().rposition(|group| group.has(p, &self.asked.counts)) {
            return Ok(near + known);
        }
        let new = StepGroup::new(p, &mut self.scalars, &mut self.asked)?;
        self.groups.put(new)?;
        self.firsts.put(i)?;
        Ok(self.groups.len() - 1)
    }

    /// When pure, copies a parameter that is not stepped.
    fn carry_x<P: Parameter<'a>>(&mut self, p: &P) -> Result<(), OutOfMemory> {
        match (p.x(), p.goal()) {
            (from, Goal::Parameter(to)) if from != to => {
                self.copies.put(Copy { from, to, bytes: p.elements() * p.dtype().size() })
            }
            _ => Ok(()),
        }
    }

    /// When pure, copies state arrays that are not stepped.
    #[inline]
    fn carry<P: Parameter<'a>>(&mut self, p: &P, slots: Range<usize>) -> Result<(), OutOfMemory> {
        for i in slots {
            let State { from, to, size } = p.slot(i);
            if from != to {
                self.copies.put(Copy { from, to, bytes: p.elements() * size })?;
            }
        }
        Ok(())
    }

    /// The job of the links that reach the parameter, unless the step ends in an accumulator. `slots` are their state arrays.
    #[inline]
    fn last<P: Parameter<'a>>(
        &mut self,
        p: &P,
        group: usize,
        links: Range<usize>,
        slots: Range<usize>,
        gradient: Source,
        scalars: usize,
    ) -> Result<(), OutOfMemory> {
        let program = p.program();
        let StepGroup { steps, working, compute, .. } = self.groups[group];
        let first = self.states.len();
        for i in slots {
            self.states.put(p.slot(i))?;
        }
        let (mut y, mut rounded, mut dx) = (None, None, None);
        match p.goal() {
            _ if !steps => {}
            Goal::Direction(to) => dx = Some(to),
            Goal::Landing(ptr) => y = Some(Sink { ptr, dtype: compute.dtype() }),
            Goal::Parameter(ptr) => {
                let x = Sink { ptr, dtype: p.dtype() };
                match program.master {
                    None => y = Some(x),
                    Some(_) => {
                        y = Some(Sink { ptr: p.slot(0).to, dtype: working });
                        rounded = Some(x);
                    }
                }
            }
        }
        self.jobs.put(Job {
            lands: links.end.saturating_sub(program.landing.max(links.start)),
            links: &program.links[links],
            scalars,
            states: first..self.states.len(),
            n: p.elements(),
            compute,
            gradient,
            x: match program.master {
                Some(_) => Source { ptr: p.slot(0).from, dtype: working },
                None => Source { ptr: p.x(), dtype: working },
            },
            y,
            rounded,
            dx,
        })
    }

    /// Notes that a walker has come to its next link.
    fn arrive(&mut self, walker: &mut Walker) {
        let question = self.asked.question(&self.groups[walker.group], walker.at);
        if let Some(whole) = question.and_then(|question| question.whole) {
            self.asked.wholes[whole].arrived += 1;
        }
    }

    /// One phase: measures, decides, and runs the loops up to the next rule that asks.
    ///
    /// # Safety
    /// As for [`Self::plan`].
    // Apart from what each step takes.
    #[inline(never)]
    unsafe fn run_phase<P: Parameter<'a>>(&mut self, parameter: &impl Fn(usize) -> P) -> Result<(), Refused> {
        // SAFETY: the caller's promise: gradients and scratch, which nothing writes now.
        unsafe { self.measure(parameter)? };
        let mut walkers = std::mem::take(&mut self.walkers);
        self.phase.0.clear();
        self.phase.1.clear();
        for walker in walkers.iter_mut().filter(|walker| walker.ready) {
            self.decide(walker, &parameter(walker.parameter))?;
        }
        walkers.retain(|walker| walker.at != DONE);
        self.walkers = walkers;
        if !self.phase.0.is_empty() {
            let tables = Tables { scalars: &self.scalars, states: &self.phase.1 };
            // SAFETY: the caller's promise; what is written is scratch, or new.
            unsafe { Plan::new(&self.phase.0, tables, &[]).run() };
        }
        Ok(())
    }

    /// Finds the walkers that go on in the next phase, and what of them must be measured; whether there are any. If not, some
    /// wait for what is made elsewhere.
    fn find_ready<P: Parameter<'a>>(&mut self, parameter: &impl Fn(usize) -> P) -> Result<bool, Refused> {
        let Self { walkers, groups, asked, measures, .. } = self;
        measures.clear();
        let (mut any, mut elsewhere) = (false, false);
        for walker in &mut *walkers {
            (walker.ready, walker.measure) = (true, None);
            if let Some(question) = asked.question(&groups[walker.group], walker.at) {
                if question.asks == Asks::Elsewhere {
                    walker.ready = walker.answered;
                    (any, elsewhere) = (any || walker.ready, elsewhere || !walker.ready);
                    continue;
                }
                walker.ready = question.whole.is_none_or(|whole| asked.wholes[whole].is_complete());
                let norm = if let Asks::Norm(norm) = question.asks { norm } else { Norm::Euclid };
                if walker.ready && (norm != Norm::Euclid || walker.norm.is_none()) {
                    let p = parameter(walker.parameter);
                    walker.measure = Some(measures.len());
                    let compute = groups[walker.group].compute;
                    measures.put(Measure { norm, of: walker.source, n: p.elements(), compute })?;
                }
            }
            any |= walker.ready;
        }
        if any || elsewhere { Ok(any) } else { Err(self.disorder()) }
    }

    /// The refusal of groups that wait for each other.
    #[cold]
    fn disorder(&self) -> Refused {
        let waits = |walker: &Walker| self.asked.question(&self.groups[walker.group], walker.at).copied();
        let (first, other) = self
            .walkers
            .iter()
            .find_map(|walker| {
                let whole = waits(walker)?.whole;
                let later = |other: &&Walker| {
                    let questions = &self.asked.questions[self.groups[other.group].questions.clone()];
                    questions.iter().any(|question| question.whole == whole && question.link > other.at)
                };
                self.walkers.iter().find(later).map(|other| (walker, other))
            })
            .unwrap_or((&self.walkers[0], &self.walkers[0]));
        let name =
            |walker: &Walker| waits(walker).map_or_else(String::new, |question| question.of.described(&question.hyper));
        Refused::by(first.parameter, Reason::Order(other.parameter, [name(first), name(other)]))
    }

    /// Measures what the walkers wait for, and what groups of them do.
    ///
    /// # Safety
    /// As for [`Norms::measure`].
    unsafe fn measure<P: Parameter<'a>>(&mut self, parameter: &impl Fn(usize) -> P) -> Result<(), Refused> {
        // SAFETY: the caller's promise.
        let found = unsafe { self.norms.measure(&self.measures)? };
        self.found.clear();
        self.found.make_room(found.len())?;
        self.found.extend_from_slice(found);
        let Self { walkers, groups, asked, found, .. } = self;
        for walker in walkers.iter_mut().filter(|walker| walker.ready) {
            let Some(question) = asked.question(&groups[walker.group], walker.at) else { continue };
            if let (Some(i), Asks::GroupNorm | Asks::GroupFinite | Asks::Norm(Norm::Euclid)) =
                (walker.measure, question.asks)
            {
                walker.norm = Some(found[i]);
            }
            let (Some(whole), Some(norm)) = (question.whole, walker.norm) else { continue };
            let p = parameter(walker.parameter);
            let (asks, greatest) = (question.asks, p.program().at(walker.at, p.counts()).numbers);
            let whole = &mut asked.wholes[whole];
            whole.note(norm, &Facts { norm, greatest });
            if norm.is_finite() || whole.culprit.is_some() {
                continue;
            }
            let element = match asks {
                // SAFETY: the caller's promise.
                Asks::GroupFinite => unsafe {
                    first_not_finite(walker.source, p.elements(), groups[walker.group].compute)
                },
                _ => Some(0),
            };
            whole.culprit = element.map(|element| (walker.parameter, element));
        }
        for walker in walkers.iter().filter(|walker| walker.ready) {
            let question = asked.question(&groups[walker.group], walker.at);
            if let (Some(whole), Some(norm)) = (question.and_then(|question| question.whole), walker.norm) {
                asked.wholes[whole].add(norm);
            }
        }
        let stamp = asked.stamp;
        asked.wholes.iter_mut().filter(|whole| whole.is_complete()).for_each(|whole| whole.close(stamp));
        Ok(())
    }

    /// What becomes of a walker that is ready: the next loops, or the end of its step.
    fn decide<P: Parameter<'a>>(&mut self, walker: &mut Walker, p: &P) -> Result<(), Refused> {
        let StepGroup { reach, mut scalars, rounding, .. } = self.groups[walker.group];
        let links = p.program().segment(walker.at, reach);
        scalars += links.start;
        let question = self.asked.question(&self.groups[walker.group], walker.at).copied();
        if let Some(question) = question.filter(|question| question.asks != Asks::Elsewhere) {
            let facts = self.facts_of(walker, &question);
            match question.of.kernel.decide(&question.hyper, &facts, rounding) {
                Verdict::Refuse(text) => return Err(self.refusal(walker, &question, text)),
                Verdict::Skip => return Ok(self.skip(walker, &question, facts, p)?),
                Verdict::Go(own) => {
                    if !question.of.kernel.shape().numbers.is_empty() {
                        self.facts.put((walker.parameter, walker.at, facts))?;
                    }
                    if question.whole.is_none() {
                        let first = self.scalars.len();
                        self.scalars.make_room(links.len())?;
                        for at in scalars..scalars + links.len() {
                            self.scalars.push(self.scalars[at]);
                        }
                        scalars = first;
                    }
                    self.scalars[scalars] = own;
                }
            }
        }
        let end = links.end;
        // What passes everything on takes no loop.
        let passes =
            p.program().links.get(links.start).is_some_and(|link| {
                link.kernel.shape().passes || link.scales && self.scalars[scalars][..2] == [1.0, 1.0]
            });
        let links = links.start + usize::from(passes)..end;
        scalars += usize::from(passes);
        if end == reach {
            walker.at = DONE;
            let slots = p.program().slots_of(&links);
            return Ok(self.last(p, walker.group, links, slots, walker.source, scalars)?);
        }
        if !links.is_empty() {
            self.stage(walker, p, links, scalars)?;
        }
        (walker.at, walker.answered) = (end, false);
        self.arrive(walker);
        Ok(())
    }

    fn facts_of(&self, walker: &Walker, question: &Question<'a>) -> Facts {
        match question.whole {
            Some(whole) => {
                let whole = &self.asked.wholes[whole];
                match question.asks {
                    Asks::GroupFinite => {
                        Facts { norm: if whole.culprit.is_some() { f64::NAN } else { 0.0 }, ..whole.facts }
                    }
                    _ => whole.facts,
                }
            }
            None => {
                let norm = walker.measure.map(|i| self.found[i]).or(walker.norm);
                Facts { norm: norm.unwrap_or(0.0), ..Facts::NONE }
            }
        }
    }

    /// The refusal of a step by a rule that has asked.
    #[cold]
    fn refusal(&self, walker: &Walker, question: &Question<'a>, text: String) -> Refused {
        let culprit = question.whole.and_then(|whole| self.asked.wholes[whole].culprit);
        match (culprit, question.asks) {
            (Some((parameter, element)), Asks::GroupFinite) => Refused::by(parameter, Reason::Element(text, element)),
            (Some((parameter, _)), _) => Refused::by(parameter, Reason::Norm(text)),
            (None, _) => Refused::by(walker.parameter, Reason::Norm(text)),
        }
    }

    /// Ends the step of a walker without one.
    #[cold]
    fn skip<P: Parameter<'a>>(
        &mut self,
        walker: &mut Walker,
        question: &Question<'a>,
        facts: Facts,
        p: &P,
    ) -> Result<(), OutOfMemory> {
        let at = walker.at;
        self.facts.put((walker.parameter, at, facts))?;
        let outcome = &mut self.outcomes[walker.parameter];
        outcome.skipped = Some(at as u32);
        if std::mem::take(&mut outcome.steps) {
            self.carry_x(p)?;
            self.carry(p, 0..p.program().slots_of(&(0..0)).start)?;
        }
        for link in 0..self.groups[walker.group].reach {
            if link > at || !p.program().links[link].kernel.shape().collects {
                self.carry(p, p.program().links[link].slots.clone())?;
            }
        }
        self.leave_wholes(walker.group, at);
        walker.at = DONE;
        let Some(whole) = question.whole.map(|whole| &mut self.asked.wholes[whole]) else { return Ok(()) };
        if let Some((parameter, element)) = whole.culprit
            && !std::mem::replace(&mut whole.skipped, true)
        {
            let counts = facts.greatest.map(|n| n.saturating_add(1));
            self.skips.put(Skip { parameter, element, rule: (walker.parameter, at), counts })?;
        }
        Ok(())
    }

    /// Takes a parameter of this group out of what rules behind link `at` ask about.
    fn leave_wholes(&mut self, group: usize, at: usize) {
        let Asked { questions, wholes, .. } = &mut self.asked;
        let later = questions[self.groups[group].questions.clone()].iter().filter(|question| question.link > at);
        later.filter_map(|question| question.whole).for_each(|whole| wholes[whole].members -= 1);
    }

    /// Adds a segment that is not the last one to the loops of this phase: its `dx` goes to scratch, its new state to where
    /// it is not seen yet.
    fn stage<P: Parameter<'a>>(
        &mut self,
        walker: &mut Walker,
        p: &P,
        links: Range<usize>,
        scalars: usize,
    ) -> Result<(), OutOfMemory> {
        let (program, compute) = (p.program(), self.groups[walker.group].compute);
        let mut streams = p.streams();
        walker.scratch.iter().for_each(|at| streams.add(*at as usize, None));
        let streams = &mut streams;
        let scratch = match walker.scratch {
            Some(scratch) => scratch,
            None => self.scratch.array(p.elements() * compute.dtype().size(), streams)?,
        };
        walker.scratch = Some(scratch);
        let (jobs, states) = &mut self.phase;
        let first = states.len();
        for link in links.clone() {
            let collects = program.links[link].kernel.shape().collects;
            for slot in program.links[link].slots.clone() {
                let mut state = p.slot(slot);
                if state.from == state.to {
                    let bytes = p.elements() * state.size;
                    let new = self.scratch.array(bytes, streams)?;
                    let copy = Copy { from: new, to: state.to, bytes };
                    self.staged.put(Staged { parameter: walker.parameter, collects, copy })?;
                    state.to = new;
                }
                states.put(state)?;
            }
        }
        jobs.put(Job {
            lands: 0,
            links: &program.links[links],
            scalars,
            states: first..states.len(),
            n: p.elements(),
            compute,
            gradient: walker.source,
            x: p.old(),
            y: None,
            rounded: None,
            dx: Some(scratch),
        })?;
        (walker.source, walker.norm) = (Source { ptr: scratch, dtype: compute.dtype() }, None);
        Ok(())
    }

    /// Adds what brings new states where they belong, but for those of steps that were skipped further on.
    fn settle(&mut self) -> Result<(), OutOfMemory> {
        let Self { staged, outcomes, copies, facts, .. } = self;
        let kept = |s: &&Staged| s.collects || outcomes[s.parameter].skipped.is_none();
        copies.make_room(staged.len())?;
        copies.extend(staged.iter().filter(kept).map(|s| s.copy));
        // Of a step that was skipped only the skip itself is known.
        facts.retain(|&(parameter, link, _)| outcomes[parameter].skipped.is_none_or(|at| at as usize == link));
        facts.sort_unstable_by_key(|&(parameter, link, _)| (parameter, link));
        Ok(())
    }
}

// SAFETY: the pointers are to memory that whoever plans keeps alive, and uses from one thread at a time.
unsafe impl Send for Planner<'_> {}
