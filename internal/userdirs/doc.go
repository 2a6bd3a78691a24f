// Package userdirs says where a person's files are: the SSH directory, the client
// configuration and what sealbatch remembers, and whose files count as one's own.
//
//	                 on a machine                       in a container, as HPCS sets it up
//	SSH directory    $HOME/.ssh                         /tmp/.ssh, where $HOME/.ssh is not there
//	configuration    ~/.config, /etc/sealbatch          after these /tmp/hpcs-client.conf
//	state            $XDG_STATE_HOME, ~/.local/state    /tmp/.local/state, where the usual place ends
//	                                                    with the container, or cannot be made
//	oneself          this process's user                for root: the owner of what is mounted at /tmp, too
//
// A container is what Docker or Podman marks as one: a file /.dockerenv or
// /run/.containerenv that belongs to root.
package userdirs
