"""All that knows transformers: what identifies a student, its tokenizer, backbone and head."""
