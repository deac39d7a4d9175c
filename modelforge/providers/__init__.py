"""Who loads the model: plain Hugging Face, or Unsloth."""
