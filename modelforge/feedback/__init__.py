"""What users say of answers: kept at once, and given out as rows to train on."""
