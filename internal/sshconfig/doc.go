// Package sshconfig says what OpenSSH's client would use for a host, by ssh_config(5).
//
// Where ssh is installed it is asked (ssh -G): it knows every keyword, and commands of `Match exec` are
// its own doing. Elsewhere, as in containers, or where $HOME is not the home directory that ssh would
// take, the files are read here by the same rules, for the keywords that sealbatch uses (Keywords).
// What both say of a configuration is the same:
//
//	Host login                      hostname login.example.org
//	  HostName %h.example.org   ->  identityfile ~/.ssh/id_site
//	  IdentityFile ~/.ssh/id_site   userknownhostsfile /home/alice/.ssh/known_hosts
//
// Files that others can write are refused either way.
package sshconfig
