/// What is counted of user events. Moments in microseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Rows.
    pub events: u64,
    /// Of them views.
    pub views: u64,
    /// Of them clicks.
    pub clicks: u64,
    /// Of them purchases.
    pub purchases: u64,
    /// Sum of the purchases' values.
    pub revenue: f64,
    /// Time of the first event.
    pub first: i64,
    /// Time of the last event.
    pub last: i64,
}

impl Figures {
    /// Takes in others.
    pub fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.views += other.views;
        self.clicks += other.clicks;
        self.purchases += other.purchases;
        self.revenue += other.revenue;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}
