package shellwords

// CleanSearch begins a command for a shell that enters a directory of which it does not know yet whose it is: programs and
// libraries are looked for in the system's directories only, since an empty or relative entry of the user's own search
// paths means the directory that was entered.
const CleanSearch = "unset LD_LIBRARY_PATH LD_PRELOAD LD_AUDIT; PATH=/usr/bin:/bin; export PATH; "
