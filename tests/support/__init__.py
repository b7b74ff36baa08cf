"""What tests of several rooms share: tiny models, whole studies, servers, made-up records."""
