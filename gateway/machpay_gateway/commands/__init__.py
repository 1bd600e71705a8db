"""The `machpay-gateway` command, one module per subcommand: arguments, what is printed, exit codes. No decisions.

base              exit codes, output and arguments that the subcommands share
run, check        serve | look at everything the configuration points at
init, register    a new gateway: its files | on-chain and at the relayer
transfer          export, import: payments as files
"""
