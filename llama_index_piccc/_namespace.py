from llama_index_piccc import *
