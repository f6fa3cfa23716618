# SPDX-License-Identifier: Apache-2.0
# Turns the guest's flat binary into a C array: embed.py BINARY OUTPUT
import sys

with open(sys.argv[1], "rb") as binary:
    program = binary.read()
if not program:
    sys.exit("the guest program is empty")
program += bytes(-len(program) % 8)

with open(sys.argv[2], "w") as output:
    output.write("/* Made by embed.py from the guest program. */\n")
    output.write("static const unsigned char guest_program[] __attribute__((aligned(8))) = {\n")
    for start in range(0, len(program), 16):
        output.write("\t" + " ".join(f"0x{byte:02x}," for byte in program[start:start + 16]) + "\n")
    output.write("};\n")
