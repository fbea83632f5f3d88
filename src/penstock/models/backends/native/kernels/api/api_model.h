/* A model as the C interface hands it out. */
#pragma once

#include "model.h"
#include "penstock_native.h"

struct pn_model {
    penstock::Model model;
};
