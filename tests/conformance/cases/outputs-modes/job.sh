#!/bin/sh
umask 0
mkdir folder folder/closed
for mode in 400 500 600 640 664 700 755 777; do
    echo $mode >folder/$mode
    chmod $mode folder/$mode
done
chmod 700 folder/closed
chmod 775 folder
echo x >alone
chmod 604 alone
