"""Every verb of recon, one file each: sync, settle (with plan and send), follow, tables, and the demo's fund."""
