"""What results mean beside others: ratios between targets, saved results, and conditions (gates)."""
