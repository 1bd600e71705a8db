"""Every verb of recon, one file each: sync, settle (with plan and send), follow, and the demo's fund."""
