#!/bin/sh
# Installs machpay-gateway into an environment of its own, with a systemd unit; --help explains.
# Safe to repeat: it upgrades what is there and never touches a configuration, a key or a payment log.
set -eu
# The service's user has to read what root installs, also where root's umask is 077. Folders with secrets say their mode.
umask 022

NAME=machpay-gateway
DESCRIPTION="MachPay gateway"

usage() {
    cat <<'HELP'
usage: install.sh [options]            install or upgrade
       install.sh --uninstall [--purge] remove what was installed

Without root everything goes below the home directory; as root below /opt, /etc
and /var/lib, with a system user that the service runs as.

  --from SPEC       what to install: a source tree's gateway/ folder, a wheel, or a
                    requirement such as machpay-gateway==0.1.0. Default: the tree this
                    script is in, else machpay-gateway from the index. Can be repeated
                    (a wheel of machpay beside one of machpay-gateway)
  --find-links DIR  take packages from this folder too; with --no-index only from it
  --no-index        no package index: offline
  --python FILE     Python 3.11 or newer; default: python3.11 or later in PATH
  --prefix DIR      the environment; default /opt/machpay-gateway, or
                    ~/.local/share/machpay-gateway
  --bin-dir DIR     where the command is linked; default /usr/local/bin or ~/.local/bin
  --config-dir DIR  gateway.toml and the key; default /etc/machpay-gateway or
                    ~/.config/machpay-gateway
  --data-dir DIR    the payment log; default /var/lib/machpay-gateway or
                    ~/.local/state/machpay-gateway
  --unit-dir DIR    where the unit goes; default /etc/systemd/system or
                    ~/.config/systemd/user
  --user NAME       the account the service runs as (root only; created if missing);
                    default machpay
  --no-systemd      install no unit
  --purge           with --uninstall: also configuration, key and payment log
                    (undelivered payments in it are lost)
  -h, --help        this text

exit codes: 0 done, 1 something could not be done, 2 wrong arguments
HELP
}

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
misused() { printf 'install.sh: %s (--help explains)\n' "$*" >&2; exit 2; }

# ---- arguments

is_root() { [ "$(id -u)" -eq 0 ]; }

if is_root; then
    prefix=/opt/$NAME bin_dir=/usr/local/bin config_dir=/etc/$NAME
    data_dir=/var/lib/$NAME unit_dir=/etc/systemd/system scope=system
else
    home=${HOME:?HOME is not set}
    prefix=${XDG_DATA_HOME:-$home/.local/share}/$NAME bin_dir=$home/.local/bin
    config_dir=${XDG_CONFIG_HOME:-$home/.config}/$NAME
    data_dir=${XDG_STATE_HOME:-$home/.local/state}/$NAME
    unit_dir=${XDG_CONFIG_HOME:-$home/.config}/systemd/user scope=user
fi
specs='' find_links='' no_index='' python='' user='' systemd=yes action=install purge=''

while [ $# -gt 0 ]; do
    option=$1
    case $option in
        --from | --find-links | --python | --prefix | --bin-dir | --config-dir | --data-dir | --unit-dir | --user)
            [ $# -ge 2 ] && [ -n "$2" ] || misused "$option needs a value"
            value=$2
            shift 2
            ;;
        *)
            value=''
            shift
            ;;
    esac
    case $option in
        # Kept one per line: paths may hold spaces.
        --from) specs="$specs$value
" ;;
        --find-links) find_links=$value ;;
        --no-index) no_index=yes ;;
        --python) python=$value ;;
        --prefix) prefix=$value ;;
        --bin-dir) bin_dir=$value ;;
        --config-dir) config_dir=$value ;;
        --data-dir) data_dir=$value ;;
        --unit-dir) unit_dir=$value ;;
        --user) user=$value ;;
        --no-systemd) systemd='' ;;
        --uninstall) action=uninstall ;;
        --purge) purge=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) misused "$option is no option" ;;
    esac
done
[ -z "$purge" ] || [ "$action" = uninstall ] || misused "--purge goes with --uninstall"
[ -z "$user" ] || is_root || misused "--user needs root: without it the service runs as you"

absolute() {
    case $1 in
        /*) printf '%s\n' "$1" ;;
        *) printf '%s/%s\n' "$(pwd)" "$1" ;;
    esac
}
prefix=$(absolute "$prefix") bin_dir=$(absolute "$bin_dir") config_dir=$(absolute "$config_dir")
data_dir=$(absolute "$data_dir") unit_dir=$(absolute "$unit_dir")
for path in "$prefix" "$bin_dir" "$config_dir" "$data_dir" "$unit_dir"; do
    case $path in
        # The unit would need escapes that no two tools agree on.
        *[!A-Za-z0-9._/@+-]*) misused "'$path': use letters, digits and . _ - + @ / in paths" ;;
    esac
done
case $user in *[!A-Za-z0-9_-]*) misused "'$user' is no user name" ;; esac
if is_root; then user=${user:-machpay}; fi
venv=$prefix/venv
command=$venv/bin/$NAME
config=$config_dir/gateway.toml
unit=$unit_dir/$NAME.service
marker=$prefix/.installed-by-$NAME

# ---- the environment

find_python() {
    if [ -n "$python" ]; then
        candidates=$python
    else
        candidates='python3.11 python3.12 python3.13 python3.14 python3'
    fi
    for candidate in $candidates; do
        found=$(command -v "$candidate" 2>/dev/null) || continue
        if "$found" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$found"
            return 0
        fi
    done
    return 1
}

source_folder() { # the gateway/ folder this script is in, if it is in one
    folder=$(cd "$(dirname "$0")" 2>/dev/null && pwd) || return 1
    [ -f "$folder/pyproject.toml" ] && [ -d "$folder/machpay_gateway" ] || return 1
    printf '%s\n' "$folder"
}

copy_source() { # $1 a package's folder, $2 where to: building must not write into somebody's tree
    mkdir -p "$2"
    (cd "$1" && tar -cf - --exclude=__pycache__ --exclude='*.egg-info' --exclude=build .) | (cd "$2" && tar -xf -)
}

install_packages() {
    if [ -n "$specs" ]; then
        wanted=$specs
    elif folder=$(source_folder); then
        wanted="$folder
"
    else
        wanted="$NAME
"
    fi
    set --
    number=0
    while IFS= read -r spec; do
        [ -n "$spec" ] || continue
        if [ -d "$spec" ]; then
            [ -f "$spec/pyproject.toml" ] || fail "$spec is no package: it has no pyproject.toml"
            number=$((number + 1))
            copy_source "$spec" "$scratch/$number"
            set -- "$@" "$scratch/$number"
            # A checkout brings the SDK that belongs to this very gateway.
            if [ -d "$spec/machpay_gateway" ] && [ -f "$spec/../sdk/pyproject.toml" ]; then
                copy_source "$spec/../sdk" "$scratch/$number-sdk"
                set -- "$@" "$scratch/$number-sdk"
            fi
        elif [ -f "$spec" ]; then
            set -- "$@" "$(absolute "$spec")"
        else
            case $spec in
                */* | *.whl | .*) fail "$spec does not exist" ;;
            esac
            set -- "$@" "$spec"
        fi
    done <<SPECS
$wanted
SPECS
    [ -z "$find_links" ] || set -- --find-links "$(absolute "$find_links")" "$@"
    [ -z "$no_index" ] || set -- --no-index "$@"
    if uv=$(command -v uv 2>/dev/null); then
        "$uv" pip install --quiet --python "$venv/bin/python" --upgrade-package machpay --upgrade-package "$NAME" \
            --reinstall-package machpay --reinstall-package "$NAME" "$@"
    else
        # An environment that uv made has no pip.
        "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade "$@"
    fi
}

install_environment() {
    interpreter=$(find_python) || fail "Python 3.11 or newer is needed: install it or name it with --python"
    if [ -e "$prefix" ] && [ ! -e "$marker" ] && [ -n "$(ls -A "$prefix")" ]; then
        fail "$prefix is not empty and was not made by this script: choose another --prefix"
    fi
    mkdir -p "$prefix" "$bin_dir"
    : >"$marker"
    if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        rm -rf "$venv"
        say "creating the environment $venv with $interpreter"
        if uv=$(command -v uv 2>/dev/null); then
            "$uv" venv --quiet --python "$interpreter" "$venv"
        else
            # A half-made environment would be taken for a whole one by the next run.
            "$interpreter" -m venv "$venv" || {
                rm -rf "$venv"
                fail "python's venv module does not work (Debian: apt-get install python3-venv)"
            }
        fi
    fi
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    trap 'exit 1' HUP INT TERM
    install_packages
    version=$("$command" --version) || fail "$command does not run"
    if [ -e "$bin_dir/$NAME" ] && [ ! -L "$bin_dir/$NAME" ]; then
        fail "$bin_dir/$NAME is in the way: it is not a link of this script"
    fi
    ln -sfn "$command" "$bin_dir/$NAME"
    say "installed $version into $venv"
}

# ---- account and folders

make_folders() {
    if is_root && ! id "$user" >/dev/null 2>&1; then
        say "creating the system user $user"
        command -v useradd >/dev/null 2>&1 || fail "useradd is not there: create the user $user, or name one with --user"
        useradd --system --user-group --no-create-home --home-dir "$data_dir" --shell /usr/sbin/nologin "$user"
    fi
    for folder in "$config_dir" "$data_dir"; do
        # A folder that is there may be anybody's: only a new one gets its owner and mode from here.
        if [ ! -e "$folder" ]; then
            mkdir -p "$folder"
            chmod 0700 "$folder"
            if is_root; then chown "$user:$(id -gn "$user")" "$folder"; fi
        fi
    done
    if [ -f "$config_dir/gateway-key.json" ]; then
        chmod 0600 "$config_dir/gateway-key.json"
    fi
}

check_access() { # an interpreter below root's home, say, is out of the service's reach
    if is_root && command -v runuser >/dev/null 2>&1; then
        (cd / && runuser -u "$user" -- "$command" --version >/dev/null 2>&1) ||
            fail "user $user cannot run $command: choose --python and --prefix where it may read"
    fi
}

# ---- systemd

write_unit() {
    mkdir -p "$unit_dir"
    draft=$unit.new
    {
        cat <<UNIT
[Unit]
Description=$DESCRIPTION
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=exec
ExecStart=$command run --config $config
WorkingDirectory=$config_dir
Environment=PYTHONUNBUFFERED=1
Environment=PYTHONDONTWRITEBYTECODE=1
EnvironmentFile=-$config_dir/environment
# Exit code 2: the configuration, the key or the log has to be mended by a person first.
Restart=always
RestartSec=2
RestartPreventExitStatus=2
# What is in flight is finished (gateway.shutdown_s) and handed over before the process ends.
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec=90
LimitNOFILE=65536
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
SystemCallArchitectures=native
UNIT
        if [ "$scope" = system ]; then
            cat <<UNIT
User=$user
Group=$(id -gn "$user")
ReadWritePaths=$data_dir
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictNamespaces=yes
RemoveIPC=yes
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
UNIT
        fi
        cat <<UNIT

[Install]
WantedBy=$([ "$scope" = system ] && echo multi-user.target || echo default.target)
UNIT
    } >"$draft"
    chmod 0644 "$draft"
    mv "$draft" "$unit"
    say "wrote $unit"
}

systemctl_here() { # systemctl of the right scope, where systemd runs at all
    command -v systemctl >/dev/null 2>&1 || return 1
    if [ "$scope" = system ]; then
        [ -d /run/systemd/system ] && systemctl "$@"
    else
        systemctl --user "$@"
    fi
}

say_next() {
    say ""
    say "next:"
    if [ ! -e "$config" ]; then
        as=''
        if is_root; then as="runuser -u $user -- "; fi
        say "  $as$command init --config $config --data-dir $data_dir"
        say "  $as$command register --config $config --vendor-keypair VENDOR-KEY-FILE"
    fi
    if [ -n "$systemd" ]; then
        user_flag=''
        if [ "$scope" = user ]; then
            user_flag=' --user'
            say "  loginctl enable-linger    # so that it also runs while you are not logged in"
        fi
        say "  systemctl$user_flag enable --now $NAME"
    else
        say "  $command run --config $config"
    fi
    case :$PATH: in
        *":$bin_dir:"*) ;;
        *) say "$bin_dir is not in your PATH" ;;
    esac
}

# ---- what to do

do_install() {
    install_environment
    make_folders
    check_access
    if [ -n "$systemd" ]; then
        write_unit
        if systemctl_here daemon-reload 2>/dev/null && systemctl_here is-active --quiet "$NAME" 2>/dev/null; then
            say "restarting $NAME"
            systemctl_here restart "$NAME"
        fi
    fi
    say_next
}

do_uninstall() {
    if [ -e "$unit" ]; then
        systemctl_here disable --now "$NAME" 2>/dev/null || true
        rm -f "$unit"
        systemctl_here daemon-reload 2>/dev/null || true
        say "removed $unit"
    fi
    if [ -L "$bin_dir/$NAME" ] && [ "$(readlink "$bin_dir/$NAME")" = "$command" ]; then
        rm -f "$bin_dir/$NAME"
    fi
    if [ -e "$marker" ]; then
        rm -rf "$venv" "$marker"
        rmdir "$prefix" 2>/dev/null || true
        say "removed $venv"
    fi
    if [ -n "$purge" ]; then
        # By name, because the folders may have been given and hold other things.
        for file in gateway.toml gateway.toml.bak gateway-key.json environment; do
            rm -f "$config_dir/$file"
        done
        # Each process of several has a folder of its own.
        for folder in "$data_dir" "$data_dir"/worker-[0-9]*; do
            rm -rf "$folder/log" "$folder/spill"
            rm -f "$folder/dead-letters.jsonl" "$folder/endpoint.json" "$folder/worker.json"
            [ "$folder" = "$data_dir" ] || rmdir "$folder" 2>/dev/null || true
        done
        rmdir "$config_dir" "$data_dir" 2>/dev/null || true
        say "removed configuration, key and payment log"
    fi
    for folder in "$config_dir" "$data_dir"; do
        if [ -e "$folder" ]; then say "kept $folder"; fi
    done
}

"do_$action"
