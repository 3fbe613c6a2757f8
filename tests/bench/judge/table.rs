//! Table: shares of the optimum, by kind, policy and seed -> a table in Markdown, as docs/stabilisation.md shows it.

/// One kind of load: by policy, the naive rule first, the share of each run.
pub struct Row {
    pub kind: &'static str,
    pub shares: Vec<Vec<f64>>,
    /// In seconds of the best model's service a second, on the mean.
    pub optimum: f64,
}

pub fn print(set: &str, policies: &[&str], rows: &[Row]) {
    println!("| {set} | naive | {} | optimum |", policies.join(" | "));
    println!("|---|---:|{}---:|", "---:|".repeat(policies.len()));
    for row in rows {
        let shares: Vec<f64> = row.shares.iter().map(|runs| mean(runs)).collect();
        println!("| {} | {} | {:.3} |", row.kind, written(&shares), row.optimum);
    }
    let by_policy = |of: fn(&[f64]) -> f64, over: fn(&[f64]) -> f64| -> String {
        let share = |policy: usize| over(&rows.iter().map(|row| of(&row.shares[policy])).collect::<Vec<_>>());
        written(&(0..=policies.len()).map(share).collect::<Vec<_>>())
    };
    println!("| **mean** | {} | |", by_policy(mean, mean));
    println!("| **worst kind** | {} | |", by_policy(mean, least));
    println!("| lowest single run | {} | |\n", by_policy(least, least));
}

fn written(shares: &[f64]) -> String {
    shares.iter().map(|share| format!("{share:.3}")).collect::<Vec<_>>().join(" | ")
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len() as f64
}

fn least(of: &[f64]) -> f64 {
    of.iter().copied().fold(f64::INFINITY, f64::min)
}
