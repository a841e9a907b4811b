"""Who we are towards receivers: tokens and certificates, read again when their files change, never written anywhere."""
