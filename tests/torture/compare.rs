//! Compare: gateways, the same clients and the same switches -> what each of them lost, side by side.

use super::bench::{self, Bench, Course, Places};
use super::client::{Address, Clients, Tally};
use super::forced::{Forced, Spread, felt, force};
use super::judge::{KINDS, Rungs};
use super::machine;
use super::other::Other;
use super::report::{Out, spread_of};
use super::subject::Subject;

/// One gateway, and what became of its replies.
pub struct Column {
    name: String,
    forced: Forced,
    tally: Tally,
}

/// Somebody's gateway, by the command line.
pub struct Given {
    pub address: Address,
    /// Rungs with their models, if they are known, in the order in which they are given.
    pub rungs: Vec<(String, Option<String>)>,
    pub command: String,
}

const ABOUT: &str = "Each has three models of 41, 16 and 4 MB, made of random weights, and the same real llama-server; the same three to eight clients ask \
without a pause, on two routes, for 12, 90 and 600 tokens, most of them streamed, and some leave early; the same switches are asked for \
at random moments (`/pin`, `/ramp/pin`), and the next one when a client has got text of the new model. A reply is good when all its tokens came, \
once, in one well-formed answer, from the model that the header names; what another model went on with in mid-stream must say so in its frames. \
Everything shares one machine, the clients included.\n\n\
Ours is given 1 s for running replies, and hands over what has not ended then. ramp-llm waits for them, for 30 s by its own default, and then \
ends its server; the column with 1 s is what it does with the time that ours is given. It ends one server before it starts the next, as ours does \
where the server holds one model.";

/// Ours with a place for two models and for one, and ramp-llm as it is and with the time that ours takes; true when ours
/// lost nothing.
pub async fn compare(out: &Out, count: u64, command: &str) -> Result<bool, String> {
    let mut columns = Vec::new();
    for (held, name) in [(2, "tierkeeper, two models at once"), (1, "tierkeeper, one model at a time")] {
        columns.push(ours(held, name, count).await?);
    }
    let own_drain = None;
    let our_drain = Some(std::time::Duration::from_secs(1));
    for (drain, name) in [(own_drain, "ramp-llm 0.7.0"), (our_drain, "ramp-llm 0.7.0, 1 s")] {
        let places = Places::new(Course::Forced { held: 1 })?;
        bench::make_models(&places)?;
        println!("\n{count} switches: {name}");
        match Other::ramp(&places, drain).await {
            Ok(other) => columns.push(column(name, other, places.course, count).await),
            Err(why) => println!("{name} is left out: {why}"),
        }
    }
    let machine = machine::line();
    out.line(&format!("# Switches compared\n\n`{command}` made this page.\n\n{ABOUT}\n\n{machine}.\n"));
    table(out, &columns);
    Ok(columns[..2].iter().all(|column| column.tally.lost_total() == 0 && column.forced.failures.is_empty()))
}

/// A gateway that somebody has started; true when it lost nothing.
pub async fn given(out: &Out, given: Given, count: u64) -> Result<bool, String> {
    let course = Course::Forced { held: 1 };
    let order: Vec<String> = given.rungs.iter().map(|(rung, _)| rung.clone()).collect();
    let rungs: Rungs = given.rungs.into_iter().filter_map(|(rung, model)| Some((rung, model?))).collect();
    let name = given.address.url.clone();
    let other = Other::there(given.address, (rungs, order), given.command);
    let column = column(&name, other, course, count).await;
    let good = column.tally.lost_total() == 0 && column.forced.failures.is_empty();
    table(out, &[column]);
    Ok(good)
}

async fn ours(held: u32, name: &str, count: u64) -> Result<Column, String> {
    let places = Places::new(Course::Forced { held })?;
    bench::make_models(&places)?;
    println!("\n{count} switches: {name}");
    let mut bench = Bench::start(&places).await?;
    let clients = Clients::new(bench.address(), places.course, bench::rungs());
    let forced = force(&mut Subject::Ours(&mut bench), &clients, &Out::terminal(), (count, count)).await;
    bench.end().await;
    let tally = std::mem::take(&mut *clients.tally());
    Ok(Column { name: name.to_owned(), forced, tally })
}

async fn column(name: &str, mut other: Other, course: Course, count: u64) -> Column {
    let clients = Clients::new(other.address.clone(), course, other.rungs.clone());
    let forced = force(&mut Subject::Other(&mut other), &clients, &Out::terminal(), (count, count)).await;
    other.end().await;
    let tally = std::mem::take(&mut *clients.tally());
    Column { name: name.to_owned(), forced, tally }
}

fn table(out: &Out, columns: &[Column]) {
    let row = |name: &str, of: &dyn Fn(&Column) -> String| {
        let cells: Vec<String> = columns.iter().map(of).collect();
        out.line(&format!("| {name} | {} |", cells.join(" | ")));
    };
    row("", &|column| column.name.clone());
    row("---", &|_| "---".to_owned());
    row("switches", &|column| column.forced.switches.len().to_string());
    row("of these failed", &|column| column.forced.failures.len().to_string());
    row("good replies", &|column| format!("{} of {}", column.tally.replies, column.tally.asked - column.tally.left));
    row("of these gone on with by another model", &|column| column.tally.handed_over.to_string());
    for kind in KINDS {
        let lost = |column: &Column| column.tally.lost.get(&kind).copied().unwrap_or_default().to_string();
        row(&format!("lost: {kind}"), &lost);
    }
    let took = |column: &Column| column.forced.switches.iter().map(|switch| switch.ended - switch.begun).collect();
    row("from asking for a switch until it serves", &|column| spread_of(Spread::of(took(column))));
    let names =
        ["longest time without text in a switch", "the same where another model went on", "the same outside switches"];
    for (at, name) in names.into_iter().enumerate() {
        row(name, &|column| spread_of(felt(&column.forced.switches, &column.tally.gaps)[0][at]));
    }
    for column in columns {
        column.forced.failures.iter().for_each(|why| out.line(&format!("\n{}: {why}", column.name)));
    }
}
