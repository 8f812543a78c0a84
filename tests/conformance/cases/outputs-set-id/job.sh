#!/bin/sh
mkdir folder folder/sticky folder/group
echo >folder/user
chmod 4755 folder/user
chmod 1777 folder/sticky
chmod 2755 folder/group
echo >alone
chmod 6755 alone
