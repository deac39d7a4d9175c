"""Whether a model holds under attack: prompts sent in many dresses, and answers judged."""
