"""The Debian packages the compiler comes from: one version set, because other versions give other bytes.

They are unpacked, never installed. If this set is no longer on the mirrors (security updates replace each other), move
to a newer one of the same packages, rebuild the artifact and commit both together; the runtime libraries further down
do not reach the output and are not pinned. Debian 12's main archive also holds 1.85.0+dfsg3-1~deb12u3 of the same
packages with libllvm19, which never changes any more: it needs `-Ztrap-unreachable=no` and another `patch_core`,
because that core still keeps the functions in intrinsics/mod.rs.
"""

from typing import Final

RUST_VERSION: Final = "1.96.0+dfsg1-1~deb12u2"

# name -> version
COMPILER: Final = {
    "rustc-web": RUST_VERSION,
    "libstd-rust-web-1.96": RUST_VERSION,
    "cargo-web": RUST_VERSION,
    "libllvm22": "1:22.1.8-1~deb12u1",
}
# The sources of core and alloc; the same version as the compiler.
SOURCES: Final = {"rust-web-src": RUST_VERSION}

# Libraries that rustc and cargo load and that a small system may lack: file -> package.
RUNTIME_LIBRARIES: Final = {
    "libbrotlicommon.so.1": "libbrotli1",
    "libbrotlidec.so.1": "libbrotli1",
    "libbsd.so.0": "libbsd0",
    "libcom_err.so.2": "libcom-err2",
    "libcrypto.so.3": "libssl3",
    "libcurl.so.4": "libcurl4",
    "libedit.so.2": "libedit2",
    "libffi.so.8": "libffi8",
    "libgit2.so.1.5": "libgit2-1.5",
    "libgmp.so.10": "libgmp10",
    "libgnutls.so.30": "libgnutls30",
    "libgssapi_krb5.so.2": "libgssapi-krb5-2",
    "libhogweed.so.6": "libhogweed6",
    "libhttp_parser.so.2.9": "libhttp-parser2.9",
    "libicudata.so.72": "libicu72",
    "libicuuc.so.72": "libicu72",
    "libidn2.so.0": "libidn2-0",
    "libk5crypto.so.3": "libk5crypto3",
    "libkeyutils.so.1": "libkeyutils1",
    "libkrb5.so.3": "libkrb5-3",
    "libkrb5support.so.0": "libkrb5support0",
    "liblber-2.5.so.0": "libldap-2.5-0",
    "libldap-2.5.so.0": "libldap-2.5-0",
    "liblzma.so.5": "liblzma5",
    "libmbedcrypto.so.7": "libmbedcrypto7",
    "libmbedtls.so.14": "libmbedtls14",
    "libmbedx509.so.1": "libmbedx509-1",
    "libmd.so.0": "libmd0",
    "libnettle.so.8": "libnettle8",
    "libnghttp2.so.14": "libnghttp2-14",
    "libp11-kit.so.0": "libp11-kit0",
    "libpcre2-8.so.0": "libpcre2-8-0",
    "libpsl.so.5": "libpsl5",
    "librtmp.so.1": "librtmp1",
    "libsasl2.so.2": "libsasl2-2",
    "libsqlite3.so.0": "libsqlite3-0",
    "libssh2.so.1": "libssh2-1",
    "libssl.so.3": "libssl3",
    "libstdc++.so.6": "libstdc++6",
    "libtasn1.so.6": "libtasn1-6",
    "libtinfo.so.6": "libtinfo6",
    "libunistring.so.2": "libunistring2",
    "libxml2.so.2": "libxml2",
    "libz.so.1": "zlib1g",
    "libz3.so.4": "libz3-4",
    "libzstd.so.1": "libzstd1",
}
